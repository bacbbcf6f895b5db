"""Statements of PostgreSQL's dialect: those about the session, and SELECTs, which are translated to the engine's dialect.

What is translated is still the caller's: it is checked by `serve.queries.sql_guard` before it is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from serve.http_errors import HttpError, UnsupportedError
from serve.postgres.catalog_tables import FUNCTIONS, PREFIX, catalog_table
from serve.postgres.values import type_named
from serve.queries.sql_guard import MOST_SQL_BYTES
from serve.queries.values import shown

SCHEMAS = ("public", "main")
_READS = ("SELECT", "WITH", "TABLE", "(")
_CALL = re.compile(r"([a-z_][a-z0-9_]*)\s*\(", re.IGNORECASE)
_WORDS = re.compile(r"""\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'|[\w$.+-]+|[^\s\w]""")
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_MOST_STATEMENTS, _MOST_PARAMETERS = 100, 1_000
_TYPES: Mapping[str, str] = {
    "oid": "uinteger", "uinteger": "uinteger", "name": "varchar", "char": "varchar", "regproc": "varchar", "regprocedure": "varchar", "regnamespace": "varchar",
    "regrole": "varchar", "xid": "bigint", "int2vector": "smallint[]", "oidvector": "uinteger[]", "cardinal_number": "integer",
    "sql_identifier": "varchar", "character_data": "varchar", "yes_or_no": "varchar", "bpchar": "varchar", "_text": "varchar[]",
    "_name": "varchar[]", "_int2": "smallint[]", "_oid": "uinteger[]", "cstring": "varchar", "inet": "varchar", "pg_node_tree": "varchar",
}  # fmt: skip
"""Types of PostgreSQL's catalog, as those of the engine."""
_OWN_TYPES = (exp.DataType.Type.USERDEFINED, exp.DataType.Type.NAME, exp.DataType.Type.VARBINARY)
_FUNCTIONS_OF_TYPES = frozenset(
    {"typinput", "typoutput", "typreceive", "typsend", "typmodin", "typmodout", "typanalyze"}
)
_MATCHES: Mapping[str, tuple[bool, str]] = {"~": (False, ""), "!~": (True, ""), "~*": (False, "i"), "!~*": (True, "i")}
_COMPARES: Mapping[str, type[exp.Binary]] = {"=": exp.EQ, "<>": exp.NEQ, "!=": exp.NEQ, "<": exp.LT, ">": exp.GT, "<=": exp.LTE, ">=": exp.GTE, "~~": exp.Like, "~~*": exp.ILike}  # fmt: skip


@dataclass(frozen=True)
class SessionFacts:
    """What SELECTs can ask about their session."""

    database: str
    user: str
    version: str


@dataclass(frozen=True)
class Command:
    """A statement about the session, such as `SET` or `BEGIN`: its words, in capitals unless they are quoted, and its text."""

    words: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class ParameterHint:
    """What a statement says about the type of a parameter."""

    type: str = ""
    """The engine's type that it is cast to."""
    column: str = ""
    """The name of the column that it is compared with."""
    is_list: bool = False
    """Whether it is a list of such values."""


@dataclass(frozen=True)
class SelectStatement:
    """A SELECT, whose parameters are not given yet."""

    tree: exp.Query
    names: tuple[str, ...]
    """The names of the result as PostgreSQL gives them; empty if a star is part of it."""
    parameters: Mapping[int, ParameterHint]
    """What is known of each parameter, by its number."""
    is_catalog: bool
    """Whether it asks about the catalog only."""

    @property
    def tables(self) -> frozenset[str]:
        """The names of its tables, in small letters."""
        return frozenset(table.name.lower() for table in self.tree.find_all(exp.Table))

    def sql(self, values: Mapping[int, exp.Expr]) -> str:
        """Return the statement in the engine's dialect, with these values for its parameters."""

        def bound(node: exp.Expr) -> exp.Expr:
            return values[_number(node)].copy() if isinstance(node, exp.Parameter) else node

        return self.tree.copy().transform(bound).sql("duckdb", comments=False)


_UNKNOWN = ParameterHint()


def split(text: str) -> list[str]:
    """Return the statements of a text, which semicolons separate; raise `HttpError` for a text that is no SQL."""
    statements, begin, is_empty = [], 0, True
    for token in _tokens(text):
        if token.token_type != TokenType.SEMICOLON:
            is_empty = False
            continue
        if not is_empty:
            statements.append(text[begin : token.start])
        begin, is_empty = token.end + 1, True
    if not is_empty:
        statements.append(text[begin:])
    if len(statements) > _MOST_STATEMENTS:
        raise HttpError(f"there are more than {_MOST_STATEMENTS} statements", do="send fewer at once")
    return statements


def parsed(text: str, facts: SessionFacts) -> Command | SelectStatement:
    """Return the statement of a text, which `split` has returned; raise `HttpError` if it cannot be read."""
    tokens = _tokens(text)
    if not tokens:
        raise HttpError("there is no statement", do="write one SELECT")
    first = tokens[0].text.upper()
    if first not in _READS:
        words = [each if each[0] in "\"'" else each.upper() for each in _WORDS.findall(_COMMENTS.sub(" ", text))]
        return Command(tuple(words[:200]), text)
    try:
        tree = sqlglot.parse_one(_readable(text, tokens), dialect="postgres")
    except (SqlglotError, RecursionError, ValueError) as error:
        raise HttpError("the statement cannot be read as SQL", do="write one SELECT") from error
    if not isinstance(tree, exp.Query):
        raise UnsupportedError("only a SELECT can be sent", do="write one SELECT")
    return _select(tree, facts)


def constant(value: str | Sequence[str | None] | None, duckdb: str) -> exp.Expr:
    """Return a value as an expression: a text, or several of a list, cast to a type unless that is empty."""
    if value is None:
        node: exp.Expr = exp.Null()
    elif isinstance(value, str):
        node = exp.Literal.string(value)
    else:
        node = exp.Array(expressions=[exp.Null() if each is None else exp.Literal.string(each) for each in value])
    return exp.Cast(this=node, to=exp.DataType.build(duckdb, dialect="duckdb")) if duckdb else node


def _tokens(text: str) -> list[Token]:
    if len(text.encode("utf-8", "replace")) > MOST_SQL_BYTES:
        raise HttpError(f"the statement is longer than {MOST_SQL_BYTES} bytes", do="send a shorter one")
    try:
        return sqlglot.tokenize(text, read="postgres")
    except (SqlglotError, ValueError) as error:
        raise HttpError("the statement cannot be read as SQL", do="close quotes and comments") from error


def _readable(text: str, tokens: Sequence[Token]) -> str:
    """Return a text with the types of lists of the catalog, such as `oid[]`, as those that the parser knows."""
    for cast, kind, opening, closing in reversed(list(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))):
        is_list = opening.token_type == TokenType.L_BRACKET and closing.token_type == TokenType.R_BRACKET
        if cast.token_type == TokenType.DCOLON and is_list and kind.text.lower() in _TYPES:
            text = f"{text[: kind.start]}{_TYPES[kind.text.lower()]}{text[kind.end + 1 :]}"
    return text


def _select(tree: exp.Query, facts: SessionFacts) -> SelectStatement:
    is_catalog = _is_catalog(tree)
    names = _names(tree)
    for select in tree.find_all(exp.Select):
        _name_calls(select)
    context = _Context(facts, is_catalog)
    for node in reversed(list(tree.walk(bfs=False))):  # what is within a node before the node
        made = _translated(node, context)
        if made is not node:
            node.replace(made)
    parameters: dict[int, ParameterHint] = {}
    for node in tree.find_all(exp.Parameter):
        number = _number(node)
        if parameters.get(number, _UNKNOWN) == _UNKNOWN:
            parameters[number] = _compared_with(node)
    if set(parameters) != set(range(1, len(parameters) + 1)):
        number = max(parameters, default=0)
        if not 0 < number <= _MOST_PARAMETERS or min(parameters) < 1:
            raise HttpError(f"the parameters are not $1 to ${_MOST_PARAMETERS}")
        parameters = {each: parameters.get(each, _UNKNOWN) for each in range(1, number + 1)}
    return SelectStatement(tree, names, parameters, is_catalog)


def _number(node: exp.Parameter) -> int:
    text = node.this.name if isinstance(node.this, exp.Expr) else str(node.this)
    if not text.isdecimal() or len(text) > 4:  # noqa: PLR2004 - more than there may be
        raise HttpError("parameters are $1, $2 and so on", got=shown(text[:40]))
    return int(text)


def _is_catalog(tree: exp.Query) -> bool:
    """Return whether a SELECT asks about the catalog: it reads a table of it, or calls a function of it and reads no table."""
    aliases = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = [each for each in tree.find_all(exp.Table) if each.db or each.name.lower() not in aliases]
    if any(catalog_table(each.db, each.name) is not None for each in tables if isinstance(each.this, exp.Identifier)):
        return True
    named = any(isinstance(each.this, exp.Identifier) or each.this.name.lower() == "metric" for each in tables)
    return not named and any(_function_name(each) in FUNCTIONS for each in tree.find_all(exp.Func))


@dataclass(frozen=True)
class _Context:
    """What a translation depends on besides the node."""

    facts: SessionFacts
    is_catalog: bool


def _translated(node: exp.Expr, context: _Context) -> exp.Expr:
    """Return what stands for a node in the engine's dialect."""
    for kind, translate in _TRANSLATIONS:
        if isinstance(node, kind):
            return translate(node, context)
    return node


def _any_table(table: exp.Table, context: _Context) -> exp.Expr:
    if isinstance(table.this, exp.Identifier):
        return _table(table, context.facts)
    return _table_function(table) if context.is_catalog else table


def _division(node: exp.Div, _: _Context) -> exp.Expr:
    return exp.Anonymous(this="pg_div", expressions=[node.this, node.expression])  # of integers, it is an integer


def _comparison(node: exp.EQ | exp.NEQ, context: _Context) -> exp.Expr:
    """Compare the name of a function of a type, where PostgreSQL has its number, with what stands for none."""
    is_function = isinstance(node.this, exp.Column) and node.this.name.lower() in _FUNCTIONS_OF_TYPES
    if context.is_catalog and is_function and isinstance(node.expression, exp.Literal) and node.expression.name == "0":
        return type(node)(this=node.this, expression=exp.Literal.string("-"))
    return node


def _like(node: exp.Like | exp.ILike, _: _Context) -> exp.Expr:
    if "\\" not in node.expression.name or isinstance(node.parent, exp.Escape):
        return node
    return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))


def _of_schema(node: exp.Dot, _: _Context) -> exp.Expr:
    """Return a function without its schema."""
    is_function = isinstance(node.this, exp.Identifier) and not isinstance(node.expression, exp.Identifier)
    return node.expression if is_function else node


def _table(table: exp.Table, facts: SessionFacts) -> exp.Table:
    name = catalog_table(table.db, table.name)
    if name is None and table.db and table.db.lower() not in SCHEMAS:
        raise HttpError(f"there is no schema {shown(table.db[:100])}", do="tables are in the schema public")
    if table.catalog and table.catalog.lower() != facts.database.lower():
        raise HttpError(f"there is no database {shown(table.catalog[:100])}", do=f"this one is {facts.database}")
    plain = table.copy()
    plain.set("db", None)
    plain.set("catalog", None)
    if name is not None:
        if not plain.alias:
            plain.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        plain.set("this", exp.to_identifier(name))
    elif table.args.get("only"):
        plain.set("only", None)
    return plain


def _table_function(table: exp.Table) -> exp.Expr:
    """Return the values of a list, or the numbers of a series, as a table."""
    call, alias = table.this, table.args.get("alias")
    name = _function_name(call).removeprefix(PREFIX)
    arguments = list(call.iter_expressions())
    if name == "generate_series":
        arguments = [exp.Anonymous(this=f"{PREFIX}series", expressions=arguments)]
    elif name != "unnest":
        return table
    return exp.Unnest(expressions=arguments, alias=alias)


def _column(node: exp.Column, context: _Context) -> exp.Expr:
    name = node.name.lower()
    if node.db.lower() in {*SCHEMAS, "pg_catalog", "information_schema"}:
        return exp.column(node.this, table=node.args["table"])
    is_word = name in {"current_role", "user", "current_catalog"} and not node.table and not node.this.quoted
    return exp.Literal.string(_about(context.facts)[name]) if is_word else node


def _function(node: exp.Func, context: _Context) -> exp.Expr:
    """Return the value of a function about the session, or the name that a function of the catalog has in the engine."""
    name = _function_name(node)
    if name == "json_build_object" and context.is_catalog:
        return exp.Null()  # of identities and collations, which there are not
    about = _about(context.facts).get(name)
    if about is not None:
        return exp.Literal.string(about)
    if context.is_catalog and name in FUNCTIONS:
        return exp.Anonymous(this=f"{PREFIX}{name}", expressions=list(node.iter_expressions()))
    return node


def _about(facts: SessionFacts) -> Mapping[str, str]:
    return {
        "current_database": facts.database, "current_catalog": facts.database, "current_schema": SCHEMAS[0], "current_user": facts.user,
        "session_user": facts.user, "current_role": facts.user, "user": facts.user, "version": facts.version,
    }  # fmt: skip


def _function_name(node: exp.Expr) -> str:
    if isinstance(node, exp.Column):
        return node.name.lower()
    if isinstance(node, exp.Anonymous):
        return node.name.lower()
    if isinstance(node, exp.Connector) or not isinstance(node, exp.Func):
        return ""
    found = _CALL.match(node.sql("postgres"))
    return node.sql_name().lower() if found is None else found[1].lower()


def _operator(node: exp.Operator, _: _Context) -> exp.Expr:
    operator = str(node.args["operator"]).rpartition(".")[2].strip()
    if operator in _MATCHES:
        is_negated, flags = _MATCHES[operator]
        arguments = [node.this, _uncollated(node.expression), *([exp.Literal.string(flags)] if flags else [])]
        call = exp.Anonymous(this="regexp_matches", expressions=arguments)
        return exp.Not(this=call) if is_negated else call
    if operator in _COMPARES:
        return _COMPARES[operator](this=node.this, expression=_uncollated(node.expression))
    raise UnsupportedError(f"the operator {shown(operator[:40])} is not supported")


def _uncollated(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Collate) else node


def _cast(node: exp.Cast, _: _Context) -> exp.Expr:
    kind = node.args["to"]
    inner = kind.expressions[0] if kind.this == exp.DataType.Type.ARRAY and kind.expressions else kind
    if type(inner) is exp.DataType and inner.this not in _OWN_TYPES:
        return _plain_cast(node, kind)
    if isinstance(kind, exp.DataType) and kind.this == exp.DataType.Type.VARBINARY:
        return _bytes(node)
    name = inner.sql("postgres").rpartition(".")[2].strip('"').lower()
    if name in {"regclass", "regtype"}:
        return exp.Anonymous(this=f"{PREFIX}{name}", expressions=[node.this])
    try:
        known = (
            exp.DataType.build(_TYPES[name], dialect="duckdb")
            if name in _TYPES
            else exp.DataType.build(name, dialect="postgres")
        )
    except (SqlglotError, ValueError) as error:
        raise UnsupportedError(f"the type {shown(name[:60])} is not supported", do="use a type of SQL") from error
    if inner is not kind:
        known = exp.DataType(this=exp.DataType.Type.ARRAY, expressions=[known], nested=True)
    return exp.Cast(this=node.this, to=known)


def _plain_cast(node: exp.Cast, kind: exp.DataType) -> exp.Expr:
    """Return a cast to a number without a scale, or to a text with a length, as PostgreSQL does it."""
    if kind.this == exp.DataType.Type.DECIMAL and not kind.expressions:
        return exp.Cast(this=node.this, to=exp.DataType.build("decimal(38,10)"))
    if (
        kind.is_type(*exp.DataType.TEMPORAL_TYPES)
        and isinstance(node.this, exp.Literal)
        and node.this.name.endswith(" BC")
    ):
        return exp.Cast(this=exp.Literal.string(f"{node.this.name.removesuffix(' BC')} (BC)"), to=kind)
    if kind.this in {exp.DataType.Type.VARCHAR, exp.DataType.Type.CHAR} and kind.expressions:
        text = exp.Cast(this=node.this, to=exp.DataType.build("varchar"))
        return exp.Substring(this=text, start=exp.Literal.number(1), length=kind.expressions[0].this.copy())
    return node


def _bytes(node: exp.Cast) -> exp.Expr:
    r"""Return bytes that are written as `'\x0aff'`, which the engine reads otherwise."""
    text = node.this.name if isinstance(node.this, exp.Literal) else ""
    return exp.Anonymous(this="unhex", expressions=[exp.Literal.string(text[2:])]) if text.startswith("\\x") else node


def _names(tree: exp.Query) -> tuple[str, ...]:
    select = tree
    while isinstance(select, exp.SetOperation | exp.Subquery):
        select = select.this
    parts = select.expressions if isinstance(select, exp.Select) else []
    if any(
        isinstance(each, exp.Star) or (isinstance(each, exp.Column) and isinstance(each.this, exp.Star))
        for each in parts
    ):
        return ()
    return tuple(_name_of(each) for each in parts)


def _name_of(node: exp.Expr) -> str:
    """Return the name of a column of the result that has no alias, by PostgreSQL's rules."""
    while isinstance(node, exp.Paren | exp.Window | exp.Filter | exp.WithinGroup | exp.Bracket):
        node = node.this
    if isinstance(node, exp.Alias | exp.Column | exp.Identifier):
        return node.alias_or_name
    if isinstance(node, exp.Dot):
        return _name_of(node.expression)
    if isinstance(node, exp.Cast):
        has_name = isinstance(node.this, exp.Column | exp.Func | exp.Dot) and not isinstance(node.this, exp.Cast)
        inner = _name_of(node.this) if has_name else "?column?"
        return _type_name(node.args["to"]) if inner == "?column?" else inner
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
        return (*_names(node.this), "?column?")[0]
    plain: Sequence[tuple[type[exp.Expr], str]] = (
        (exp.Case, "case"), (exp.AtTimeZone, "timezone"), (exp.Exists, "exists"), (exp.Interval, "interval"), (exp.Array, "array"), (exp.Coalesce, "coalesce"),
    )  # fmt: skip
    for kind, name in plain:
        if isinstance(node, kind):
            return name
    return _function_name(node) or "?column?"


def _type_name(kind: exp.Expr) -> str:
    text = kind.sql("duckdb")
    found = type_named(text.removesuffix("[]"))
    name = kind.sql("postgres").rpartition(".")[2].strip('"').lower() if found is None else found.name
    return f"_{name}" if text.endswith("[]") else name


def _name_calls(select: exp.Select) -> None:
    """Give functions of a SELECT without alias the name that PostgreSQL gives them, by which an outer SELECT may read them."""
    expressions = []
    for each in select.expressions:
        inner = each
        while isinstance(inner, exp.Window | exp.Filter | exp.WithinGroup):
            inner = inner.this
        is_call = isinstance(inner, exp.Func) and not isinstance(inner, exp.Connector | exp.Cast)
        expressions.append(exp.alias_(each, _name_of(each), quoted=True) if is_call else each)
    select.set("expressions", expressions)


def _compared_with(node: exp.Expr) -> ParameterHint:
    """Return what says the type of a parameter: a cast, a column that it is compared with, or that it is a number of rows."""
    parent, is_list = node.parent, False
    while isinstance(parent, exp.Paren | exp.Any | exp.All):
        is_list |= not isinstance(parent, exp.Paren)
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Cast):
        return ParameterHint(type=parent.args["to"].sql("duckdb"))
    if isinstance(parent, exp.Limit | exp.Offset):
        return ParameterHint(type="BIGINT")
    if isinstance(parent, exp.Binary | exp.Between | exp.In):
        columns = (each for each in parent.iter_expressions() if each is not node and isinstance(each, exp.Column))
        return ParameterHint(column=next((each.name for each in columns), ""), is_list=is_list)
    return ParameterHint()


_TRANSLATIONS: Sequence[tuple[type[exp.Expr], Callable[[Any, _Context], exp.Expr]]] = (
    (exp.Table, _any_table), (exp.Div, _division), (exp.EQ, _comparison), (exp.NEQ, _comparison), (exp.Collate, lambda node, _: node.this), (exp.ByteString, lambda node, _: exp.Literal.string(node.name)),
    (exp.RawString, lambda node, _: exp.Literal.string(node.name)), (exp.Like, _like), (exp.ILike, _like), (exp.Operator, _operator), (exp.Cast, _cast),
    (exp.Dot, _of_schema), (exp.Column, _column), (exp.Func, _function),
)  # fmt: skip
"""What is done with each kind of node; the first that fits."""
