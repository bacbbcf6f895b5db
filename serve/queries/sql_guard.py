"""SQL of callers: admitted if every part of it is on a list of what only computes, otherwise refused.

DuckDB's SQL can read files, settings and statistics, so that a list of what is forbidden would never be complete. What is executed is
printed from the checked tree, and never the caller's text; its tables are those that the caller may read, each replaced by
the rows that the caller's policy shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pipeline.core.errors import did_you_mean
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import function_name
from pipeline.kernel.syntax.scope import tables_of
from serve.http_errors import HttpError
from serve.queries.values import shown

MOST_SQL_BYTES = 20_000
_DEEPEST = 60
_MOST_NODES = 5_000
_METRIC = "metric"
_MOST_METRICS = 10
_NODES: tuple[type[exp.Expr], ...] = (
    exp.Select, exp.From, exp.Join, exp.Where, exp.Group, exp.Having, exp.Qualify, exp.Order, exp.Ordered, exp.Limit, exp.Offset,
    exp.With, exp.CTE, exp.Subquery, exp.Union, exp.Intersect, exp.Except, exp.Distinct, exp.Tuple, exp.Paren, exp.Alias, exp.TableAlias,
    exp.Table, exp.Column, exp.Identifier, exp.Star, exp.Literal, exp.Boolean, exp.Null, exp.DataType, exp.DataTypeParam, exp.Interval,
    exp.Var, exp.And, exp.Or, exp.Xor, exp.Not, exp.Is, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ,
    exp.Between, exp.In, exp.Like, exp.ILike, exp.Escape, exp.Exists, exp.Any, exp.All, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Div,
    exp.IntDiv, exp.Mod, exp.DPipe, exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor, exp.BitwiseNot, exp.BitwiseLeftShift,
    exp.BitwiseRightShift, exp.Window, exp.WindowSpec, exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.WithinGroup, exp.Lambda,
    exp.Bracket, exp.Slice, exp.Dot, exp.Kwarg, exp.PropertyEQ, exp.Rollup, exp.Cube, exp.GroupingSets, exp.AtTimeZone, exp.Case, exp.If, exp.Cast, exp.TryCast, exp.Struct,
    exp.Array, exp.Coalesce, exp.Func,
)  # fmt: skip
"""The kinds of nodes; functions must also be on the list below."""
_FUNCTIONS = frozenset(
    """
    abs acos age array_length asin atan atan2 bin bit_count cbrt ceil ceiling century char_length
    character_length chr coalesce concat concat_ws contains cos cot date_add date_diff date_part date_sub
    date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear decade degrees
    editdist3 element_at ends_with epoch epoch_ms epoch_us era even exp extract factorial floor fmod from_base64
    gamma gcd greatest hamming hash hex hour if ifnull isfinite isinf isnan isodow isoyear jaccard
    jaro_similarity jaro_winkler_similarity json_array_length json_exists json_extract json_extract_string
    json_keys json_type json_valid julian last_day lcase lcm least left len length levenshtein lgamma
    list_any_value list_append list_avg list_concat list_contains list_count list_distinct list_element
    list_extract list_filter list_first list_has list_has_all list_has_any list_intersect list_last list_max
    list_median list_min list_position list_reverse list_slice list_sort list_sum list_transform list_unique
    list_value list_where list_zip ln log log10 log2 lower ltrim make_date make_time make_timestamp map
    map_contains map_entries map_extract map_extract_value map_keys map_values md5 microsecond millisecond
    minute mod month monthname nullif octet_length ord overlay pg_div pi position pow power prefix quarter radians
    regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace replace reverse right
    round round_even row rtrim second sha1 sha256 sign sin split_part sqrt starts_with strftime string_split
    strip_accents strlen strpos strptime struct_extract struct_pack substr substring suffix tan time_bucket
    timezone to_base64 to_days to_hex to_hours to_json to_microseconds to_milliseconds to_minutes to_months
    to_seconds to_timestamp to_years translate trim trunc try_strptime typeof ucase unhex unnest unicode upper
    week weekday weekofyear xor year yearweek array case cast try_cast struct and or not exists filter any all
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value grouping
    any_value approx_count_distinct approx_quantile approx_top_k arg_max arg_min array_agg avg bit_and bit_or
    bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp entropy favg first fsum
    histogram kurtosis last list mad max max_by mean median min min_by mode product quantile quantile_cont
    quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope skewness stddev stddev_pop
    stddev_samp string_agg group_concat listagg sum sumkahan var_pop var_samp variance
    """.split()  # noqa: SIM905 - a list of 250 lines would not be read
)
"""Functions that compute from their arguments, without large results from small ones: no `repeat`, `lpad`, `range` or `format`."""


_CLOCKS = frozenset({"current_date", "current_timestamp", "now", "today"})
"""Functions that return the time of the request, so that their results are not kept."""
_BEGINS = re.compile(r"[\s(]*(select|with|from|table)\b", re.IGNORECASE)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class GuardedSql:
    """A SELECT that was checked, and the tables that it reads."""

    tables: tuple[str, ...]
    tree: exp.Query
    is_stable: bool
    """Whether it returns the same rows for the same versions of its tables."""
    metrics: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The calls of `metric(…)`, each with the name that it has as a table: the names of the metrics, and the words of the query."""

    def sql(self, relation_of: Callable[[str], str]) -> str:
        """Return the statement to execute, with the SELECT of what the caller may see in place of each table and metric."""
        parts = ", ".join(f"{quoted(name)} as ({relation_of(name)})" for name in (*self.tables, *self.metrics))
        text = self.tree.sql("duckdb", comments=False)
        return f"with {parts} select * from ({text})" if parts else f"select * from ({text})"


def guarded(text: str, readable: Collection[str], *, more_functions: Collection[str] = ()) -> GuardedSql:
    """Return the SELECT of a caller that may read some tables; raise `HttpError` if it contains anything else than the lists allow.

    `more_functions` are allowed too.
    """
    tree = _parsed(text)
    metrics = _metrics_of(tree)
    names = {name.lower(): name for name in readable}
    aliases = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    for alias in aliases:
        if alias in names or _PLAIN.fullmatch(alias) is None:
            is_table = alias in names
            problem = f"WITH defines {shown(alias)}, which is {'a table' if is_table else 'not a plain name'}"
            raise HttpError(problem, do="choose another name")
    is_stable = True
    for number, node in enumerate(tree.walk()):
        if number > _MOST_NODES:
            raise HttpError(f"the statement has more than {_MOST_NODES} parts", do="send a shorter one")
        is_stable &= not _is_clock(node)
        _require_allowed(node, more_functions)
    tables: dict[str, None] = {}
    for name in tables_of(tree):  # those of WITH only where they are defined
        if name in metrics:
            continue
        if name.lower() not in names:
            raise HttpError(f"there is no table {shown(name)}", do=did_you_mean(name[:200], readable))
        tables[names[name.lower()]] = None
    return GuardedSql(tuple(tables), tree, is_stable, metrics)


def _metrics_of(tree: exp.Query) -> dict[str, tuple[str, str]]:
    """Replace each `metric('names', 'words')` after FROM or JOIN by a name; return the texts by that name."""
    found: dict[str, tuple[str, str]] = {}
    for table in list(tree.find_all(exp.Table)):
        call = table.this
        if not isinstance(call, exp.Anonymous) or str(call.this).lower() != _METRIC:
            continue
        texts = [each.name for each in call.expressions if isinstance(each, exp.Literal) and each.is_string]
        if len(texts) != len(call.expressions) or len(texts) not in {1, 2}:
            do = "write metric('on_time_rate', 'dimensions=origin&grain=month')"
            raise HttpError("metric(…) takes the name of a metric and the words of a query, as texts", do=do)
        if len(found) >= _MOST_METRICS:
            raise HttpError(f"the statement asks more than {_MOST_METRICS} times for metrics", do="split it")
        name = f"~metric{len(found)}"
        table.set("this", exp.to_identifier(name, quoted=True))
        found[name] = (texts[0], texts[1] if len(texts) > 1 else "")
    return found


def _parsed(text: str) -> exp.Query:
    if len(text.encode("utf-8", "replace")) > MOST_SQL_BYTES:
        raise HttpError(f"the statement is longer than {MOST_SQL_BYTES} bytes", do="send a shorter one")
    if _depth(text) > _DEEPEST:
        raise HttpError(f"the statement is nested more than {_DEEPEST} levels deep", do="use WITH")
    if _BEGINS.match(text) is None:
        raise HttpError("only a SELECT can be sent", do="write one SELECT")
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect="duckdb") if tree is not None]
    except (SqlglotError, RecursionError, ValueError) as error:
        raise HttpError("the statement cannot be read as SQL", do="write one SELECT in DuckDB's dialect") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise HttpError("only a SELECT can be sent", do="write one SELECT")
    return trees[0]


def _require_allowed(node: exp.Expr, more_functions: Collection[str]) -> None:
    if isinstance(node, exp.Table):
        _require_name(node)
    if _is_clock(node):
        return
    if not isinstance(node, _NODES):
        raise HttpError(f"{_called(node)} cannot be used", do="see docs/serving.md for what can")
    if isinstance(node, exp.Func) and not isinstance(node, exp.Connector):
        name = function_name(node)
        if name not in _FUNCTIONS and name not in more_functions:
            raise HttpError(f"the function {shown(name)} cannot be used", do=did_you_mean(name[:100], _FUNCTIONS))


def _require_name(table: exp.Table) -> None:
    extra = {name for name, value in table.args.items() if value} - {"this", "alias", "joins"}
    if not isinstance(table.this, exp.Identifier) or extra:
        raise HttpError(f"{shown(table.sql('duckdb'))} is not the name of a table", do="read tables by their names")


def _is_clock(node: exp.Expr) -> bool:
    return isinstance(node, exp.Func) and not isinstance(node, exp.Connector) and function_name(node) in _CLOCKS


def _called(node: exp.Expr) -> str:
    return shown(node.sql("duckdb")[:60])


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
