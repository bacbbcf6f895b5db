-- PostgreSQL's catalog of what a caller may read: the tables and columns that drivers and BI tools ask for, and functions about them.
-- Those of information_schema have its name as a prefix, and functions the prefix catalog_.
-- Source: https://www.postgresql.org/docs/16/catalogs.html and https://www.postgresql.org/docs/16/information-schema.html

create table pg_namespace (
  oid bigint, nspname varchar, nspowner bigint, nspacl varchar[]
);
create table pg_class (
  oid bigint, relname varchar, relnamespace bigint, reltype bigint, reloftype bigint, relowner bigint, relam bigint,
  relfilenode bigint, reltablespace bigint, relpages integer, reltuples float, relallvisible integer, reltoastrelid
  bigint, relhasindex boolean, relisshared boolean, relpersistence varchar, relkind varchar, relnatts smallint,
  relchecks smallint, relhasrules boolean, relhastriggers boolean, relhassubclass boolean, relrowsecurity boolean,
  relforcerowsecurity boolean, relispopulated boolean, relreplident varchar, relispartition boolean, relrewrite
  bigint, relfrozenxid bigint, relminmxid bigint, relacl varchar[], reloptions varchar[], relpartbound varchar,
  tableoid bigint
);
create table pg_attribute (
  attrelid bigint, attname varchar, atttypid bigint, attlen smallint, attnum smallint, attcacheoff integer,
  atttypmod integer, attndims smallint, attbyval boolean, attalign varchar, attstorage varchar, attcompression
  varchar, attnotnull boolean, atthasdef boolean, atthasmissing boolean, attidentity varchar, attgenerated varchar,
  attisdropped boolean, attislocal boolean, attinhcount smallint, attstattarget smallint, attcollation bigint,
  attacl varchar[], attoptions varchar[], attfdwoptions varchar[], attmissingval varchar
);
create table pg_type (
  oid bigint, typname varchar, typnamespace bigint, typowner bigint, typlen smallint, typbyval boolean, typtype
  varchar, typcategory varchar, typispreferred boolean, typisdefined boolean, typdelim varchar, typrelid bigint,
  typsubscript varchar, typelem bigint, typarray bigint, typinput varchar, typoutput varchar, typreceive varchar,
  typsend varchar, typmodin varchar, typmodout varchar, typanalyze varchar, typalign varchar, typstorage varchar,
  typnotnull boolean, typbasetype bigint, typtypmod integer, typndims integer, typcollation bigint, typdefaultbin
  varchar, typdefault varchar, typacl varchar[]
);
create table pg_index (
  indexrelid bigint, indrelid bigint, indnatts smallint, indnkeyatts smallint, indisunique boolean,
  indnullsnotdistinct boolean, indisprimary boolean, indisexclusion boolean, indimmediate boolean, indisclustered
  boolean, indisvalid boolean, indcheckxmin boolean, indisready boolean, indislive boolean, indisreplident boolean,
  indkey smallint[], indcollation bigint[], indclass bigint[], indoption smallint[], indexprs varchar, indpred
  varchar
);
create table pg_constraint (
  oid bigint, conname varchar, connamespace bigint, contype varchar, condeferrable boolean, condeferred boolean,
  convalidated boolean, conrelid bigint, contypid bigint, conindid bigint, conparentid bigint, confrelid bigint,
  confupdtype varchar, confdeltype varchar, confmatchtype varchar, conislocal boolean, coninhcount smallint,
  connoinherit boolean, conkey smallint[], confkey smallint[], conpfeqop bigint[], conppeqop bigint[], conffeqop
  bigint[], confdelsetcols smallint[], conexclop bigint[], conbin varchar
);
create table pg_description (
  objoid bigint, classoid bigint, objsubid integer, description varchar
);
create table pg_shdescription (
  objoid bigint, classoid bigint, description varchar
);
create table pg_attrdef (
  oid bigint, adrelid bigint, adnum smallint, adbin varchar
);
create table pg_database (
  oid bigint, datname varchar, datdba bigint, encoding integer, datlocprovider varchar, datistemplate boolean,
  datallowconn boolean, datconnlimit integer, dattablespace bigint, datcollate varchar, datctype varchar,
  daticulocale varchar, daticurules varchar, datacl varchar[]
);
create table pg_roles (
  oid bigint, rolname varchar, rolsuper boolean, rolinherit boolean, rolcreaterole boolean, rolcreatedb boolean,
  rolcanlogin boolean, rolreplication boolean, rolconnlimit integer, rolpassword varchar, rolvaliduntil timestamptz,
  rolbypassrls boolean, rolconfig varchar[]
);
create table pg_user (
  usename varchar, usesysid bigint, usecreatedb boolean, usesuper boolean, userepl boolean, usebypassrls boolean,
  passwd varchar, valuntil timestamptz, useconfig varchar[]
);
create table pg_settings (
  name varchar, setting varchar, unit varchar, category varchar, short_desc varchar, context varchar, vartype
  varchar, source varchar, boot_val varchar, reset_val varchar
);
create table pg_am (
  oid bigint, amname varchar, amhandler varchar, amtype varchar
);
create table pg_tables (
  schemaname varchar, tablename varchar, tableowner varchar, tablespace varchar, hasindexes boolean, hasrules
  boolean, hastriggers boolean, rowsecurity boolean
);
create table pg_indexes (
  schemaname varchar, tablename varchar, indexname varchar, tablespace varchar, indexdef varchar
);
create table pg_collation (
  oid bigint, collname varchar, collnamespace bigint, collowner bigint, collprovider varchar, collisdeterministic
  boolean, collencoding integer, collcollate varchar, collctype varchar
);
create table pg_auth_members (
  roleid bigint, member bigint, grantor bigint, admin_option boolean
);
create table pg_views (
  schemaname varchar, viewname varchar, viewowner varchar, definition varchar
);
create table pg_matviews (
  schemaname varchar, matviewname varchar, matviewowner varchar, tablespace varchar, hasindexes boolean, ispopulated
  boolean, definition varchar
);
create table pg_proc (
  oid bigint, proname varchar, pronamespace bigint, proowner bigint, prolang bigint, prokind varchar, prorettype
  bigint, proretset boolean, proargtypes bigint[], proallargtypes bigint[], proargmodes varchar[], proargnames
  varchar[], pronargs smallint, pronargdefaults smallint, provariadic bigint, prosrc varchar, proacl varchar[],
  prosecdef boolean, provolatile varchar
);
create table pg_range (
  rngtypid bigint, rngsubtype bigint, rngmultitypid bigint, rngcollation bigint, rngsubopc bigint, rngcanonical
  varchar, rngsubdiff varchar
);
create table pg_enum (
  oid bigint, enumtypid bigint, enumsortorder float, enumlabel varchar
);
create table pg_inherits (
  inhrelid bigint, inhparent bigint, inhseqno integer, inhdetachpending boolean
);
create table pg_trigger (
  oid bigint, tgrelid bigint, tgparentid bigint, tgname varchar, tgfoid bigint, tgtype smallint, tgenabled varchar,
  tgisinternal boolean, tgconstraint bigint, tgdeferrable boolean, tginitdeferred boolean
);
create table pg_rewrite (
  oid bigint, rulename varchar, ev_class bigint, ev_type varchar, ev_enabled varchar, is_instead boolean
);
create table pg_policy (
  oid bigint, polname varchar, polrelid bigint, polcmd varchar, polpermissive boolean, polroles bigint[], polqual
  varchar, polwithcheck varchar
);
create table pg_extension (
  oid bigint, extname varchar, extowner bigint, extnamespace bigint, extrelocatable boolean, extversion varchar
);
create table pg_language (
  oid bigint, lanname varchar, lanowner bigint, lanispl boolean, lanpltrusted boolean
);
create table pg_tablespace (
  oid bigint, spcname varchar, spcowner bigint, spcacl varchar[], spcoptions varchar[]
);
create table pg_statistic_ext (
  oid bigint, stxrelid bigint, stxname varchar, stxnamespace bigint, stxkeys smallint[], stxkind varchar[],
  stxstattarget smallint
);
create table pg_publication (
  oid bigint, pubname varchar, pubowner bigint, puballtables boolean, pubinsert boolean, pubupdate boolean,
  pubdelete boolean, pubtruncate boolean, pubviaroot boolean
);
create table pg_publication_rel (
  oid bigint, prpubid bigint, prrelid bigint, prqual varchar, prattrs smallint[]
);
create table pg_publication_namespace (
  oid bigint, pnpubid bigint, pnnspid bigint
);
create table pg_foreign_table (
  ftrelid bigint, ftserver bigint, ftoptions varchar[]
);
create table pg_foreign_server (
  oid bigint, srvname varchar, srvowner bigint, srvfdw bigint, srvtype varchar, srvversion varchar, srvacl
  varchar[], srvoptions varchar[]
);
create table pg_sequence (
  seqrelid bigint, seqtypid bigint, seqstart bigint, seqincrement bigint, seqmax bigint, seqmin bigint, seqcache
  bigint, seqcycle boolean
);
create table pg_sequences (
  schemaname varchar, sequencename varchar, sequenceowner varchar, data_type varchar
);
create table pg_depend (
  classid bigint, objid bigint, objsubid integer, refclassid bigint, refobjid bigint, refobjsubid integer, deptype
  varchar
);
create table pg_operator (
  oid bigint, oprname varchar, oprnamespace bigint, oprleft bigint, oprright bigint, oprresult bigint, oprcode
  varchar
);
create table pg_opclass (
  oid bigint, opcname varchar, opcnamespace bigint, opcmethod bigint, opcintype bigint, opcdefault boolean
);
create table pg_partitioned_table (
  partrelid bigint, partstrat varchar, partnatts smallint, partdefid bigint, partattrs smallint[]
);
create table pg_stat_user_tables (
  relid bigint, schemaname varchar, relname varchar, seq_scan bigint, idx_scan bigint, n_live_tup bigint, n_dead_tup
  bigint
);
create table pg_stat_activity (
  datid bigint, datname varchar, pid integer, usename varchar, application_name varchar, state varchar, query
  varchar
);
create table pg_locks (
  locktype varchar, database bigint, relation bigint, pid integer, mode varchar, granted boolean
);
create table pg_timezone_names (
  name varchar, abbrev varchar, utc_offset interval, is_dst boolean
);
create table pg_cast (
  oid bigint, castsource bigint, casttarget bigint, castfunc bigint, castcontext varchar, castmethod varchar
);
create table pg_event_trigger (
  oid bigint, evtname varchar, evtevent varchar, evtowner bigint, evtenabled varchar
);
create table information_schema_tables (
  table_catalog varchar, table_schema varchar, table_name varchar, table_type varchar, self_referencing_column_name
  varchar, reference_generation varchar, user_defined_type_catalog varchar, user_defined_type_schema varchar,
  user_defined_type_name varchar, is_insertable_into varchar, is_typed varchar, commit_action varchar
);
create table information_schema_columns (
  table_catalog varchar, table_schema varchar, table_name varchar, column_name varchar, ordinal_position integer,
  column_default varchar, is_nullable varchar, data_type varchar, character_maximum_length integer,
  character_octet_length integer, numeric_precision integer, numeric_precision_radix integer, numeric_scale integer,
  datetime_precision integer, interval_type varchar, interval_precision integer, character_set_catalog varchar,
  character_set_schema varchar, character_set_name varchar, collation_catalog varchar, collation_schema varchar,
  collation_name varchar, domain_catalog varchar, domain_schema varchar, domain_name varchar, udt_catalog varchar,
  udt_schema varchar, udt_name varchar, is_identity varchar, identity_generation varchar, is_generated varchar,
  generation_expression varchar, is_updatable varchar
);
create table information_schema_schemata (
  catalog_name varchar, schema_name varchar, schema_owner varchar, default_character_set_name varchar
);
create table information_schema_views (
  table_catalog varchar, table_schema varchar, table_name varchar, view_definition varchar, is_updatable varchar
);
create table information_schema_table_constraints (
  constraint_catalog varchar, constraint_schema varchar, constraint_name varchar, table_catalog varchar,
  table_schema varchar, table_name varchar, constraint_type varchar, is_deferrable varchar, initially_deferred
  varchar, enforced varchar
);
create table information_schema_key_column_usage (
  constraint_catalog varchar, constraint_schema varchar, constraint_name varchar, table_catalog varchar,
  table_schema varchar, table_name varchar, column_name varchar, ordinal_position integer,
  position_in_unique_constraint integer
);
create table information_schema_referential_constraints (
  constraint_catalog varchar, constraint_schema varchar, constraint_name varchar, unique_constraint_catalog varchar,
  unique_constraint_schema varchar, unique_constraint_name varchar, match_option varchar, update_rule varchar,
  delete_rule varchar
);
create table information_schema_constraint_column_usage (
  table_catalog varchar, table_schema varchar, table_name varchar, column_name varchar, constraint_catalog varchar,
  constraint_schema varchar, constraint_name varchar
);
create table information_schema_character_sets (
  character_set_catalog varchar, character_set_schema varchar, character_set_name varchar, character_repertoire
  varchar, form_of_use varchar, default_collate_catalog varchar, default_collate_schema varchar,
  default_collate_name varchar
);
create table information_schema_routines (
  specific_catalog varchar, specific_schema varchar, specific_name varchar, routine_catalog varchar, routine_schema
  varchar, routine_name varchar, routine_type varchar, data_type varchar
);
create table information_schema_parameters (
  specific_schema varchar, specific_name varchar, ordinal_position integer, parameter_mode varchar, parameter_name
  varchar, data_type varchar
);
create table information_schema_sequences (
  sequence_catalog varchar, sequence_schema varchar, sequence_name varchar
);
create table information_schema_triggers (
  trigger_schema varchar, trigger_name varchar, event_object_table varchar
);
create table information_schema_table_privileges (
  grantor varchar, grantee varchar, table_catalog varchar, table_schema varchar, table_name varchar, privilege_type
  varchar, is_grantable varchar
);
create table information_schema_role_table_grants (
  grantor varchar, grantee varchar, table_catalog varchar, table_schema varchar, table_name varchar, privilege_type
  varchar, is_grantable varchar
);
create table information_schema_information_schema_catalog_name (
  catalog_name varchar
);

create view types as
  select *,
    case typname
      when 'bool' then 'boolean' when 'int2' then 'smallint' when 'int4' then 'integer' when 'int8' then 'bigint'
      when 'float4' then 'real' when 'float8' then 'double precision' when 'time' then 'time without time zone'
      when 'timestamp' then 'timestamp without time zone' when 'timestamptz' then 'timestamp with time zone'
      when 'varchar' then 'character varying' else typname
    end as display
  from pg_type;

create macro catalog_pg_table_is_visible(a) as true;
create macro catalog_pg_type_is_visible(a) as true;
create macro catalog_pg_function_is_visible(a) as true;
create macro catalog_pg_operator_is_visible(a) as true;
create macro catalog_pg_opclass_is_visible(a) as true;
create macro catalog_pg_opfamily_is_visible(a) as true;
create macro catalog_pg_collation_is_visible(a) as true;
create macro catalog_pg_conversion_is_visible(a) as true;
create macro catalog_pg_statistics_obj_is_visible(a) as true;
create macro catalog_pg_get_userbyid(a) as (select any_value(rolname) from pg_roles where oid = a);
create macro catalog_pg_get_expr(a, b) as null::varchar, (a, b, c) as null::varchar;
create macro catalog_pg_get_viewdef(a) as null::varchar, (a, b) as null::varchar;
create macro catalog_pg_get_indexdef
  (a) as (
    select any_value(i.indexdef) from pg_indexes as i join pg_class as c on c.relname = i.indexname where c.oid = a
  ),
  (a, b, c) as (
    case
      when b = 0 then (
        select any_value(i.indexdef) from pg_indexes as i join pg_class as c on c.relname = i.indexname where c.oid = a
      )
      else (select any_value(f.attname) from pg_attribute as f where f.attrelid = a and f.attnum = b)
    end
  );
create macro catalog_pg_get_constraintdef
  (a) as (select any_value(conbin) from pg_constraint where oid = a),
  (a, b) as (select any_value(conbin) from pg_constraint where oid = a);
create macro catalog_pg_get_partkeydef(a) as null::varchar;
create macro catalog_pg_get_serial_sequence(a, b) as null::varchar;
create macro catalog_pg_get_function_result(a) as null::varchar;
create macro catalog_pg_get_function_arguments(a) as null::varchar;
create macro catalog_pg_get_function_identity_arguments(a) as null::varchar;
create macro catalog_pg_get_ruledef(a) as null::varchar, (a, b) as null::varchar;
create macro catalog_pg_get_triggerdef(a) as null::varchar, (a, b) as null::varchar;
create macro catalog_pg_get_statisticsobjdef_columns(a) as null::varchar;
create macro catalog_pg_relation_is_publishable(a) as false;
create macro catalog_pg_is_in_recovery() as false;
create macro catalog_pg_is_other_temp_schema(a) as false;
create macro catalog_pg_my_temp_schema() as 0;
create macro catalog_pg_backend_pid() as 1;
create macro catalog_pg_encoding_to_char(a) as 'UTF8';
create macro catalog_pg_relation_size(a) as 0::bigint, (a, b) as 0::bigint;
create macro catalog_pg_table_size(a) as 0::bigint;
create macro catalog_pg_indexes_size(a) as 0::bigint;
create macro catalog_pg_total_relation_size(a) as 0::bigint;
create macro catalog_pg_database_size(a) as 0::bigint;
create macro catalog_pg_size_pretty(a) as a::varchar || ' bytes';
create macro catalog_pg_tablespace_location(a) as '';
create macro catalog_pg_advisory_unlock_all() as null::varchar;
create macro catalog_txid_current() as 1::bigint;
create macro catalog_inet_server_addr() as null::varchar;
create macro catalog_inet_server_port() as null::integer;
create macro catalog_has_table_privilege(a, b) as lower(b) like '%select%', (a, b, c) as lower(c) like '%select%';
create macro catalog_has_any_column_privilege
  (a, b) as lower(b) like '%select%',
  (a, b, c) as lower(c) like '%select%';
create macro catalog_has_column_privilege
  (a, b, c) as lower(c) like '%select%',
  (a, b, c, d) as lower(d) like '%select%';
create macro catalog_has_schema_privilege(a, b) as lower(b) like '%usage%', (a, b, c) as lower(c) like '%usage%';
create macro catalog_has_database_privilege
  (a, b) as lower(b) like '%connect%',
  (a, b, c) as lower(c) like '%connect%';
create macro catalog_has_function_privilege(a, b) as false, (a, b, c) as false;
create macro catalog_obj_description
  (a) as (select any_value(description) from pg_description where objoid = a and objsubid = 0),
  (a, b) as (select any_value(description) from pg_description where objoid = a and objsubid = 0);
create macro catalog_col_description(a, b) as null::varchar;
create macro catalog_shobj_description(a, b) as null::varchar;
create macro catalog_current_schemas(a) as case when a then ['pg_catalog', 'public'] else ['public'] end;
create macro catalog_current_setting
  (a) as (select any_value(setting) from pg_settings where lower(name) = lower(a)),
  (a, b) as (select any_value(setting) from pg_settings where lower(name) = lower(a));
create macro catalog_set_config(a, b, c) as b;
create macro catalog_array_upper(a, b) as case when b = 1 and len(a) > 0 then len(a) end;
create macro catalog_array_lower(a, b) as case when b = 1 and len(a) > 0 then 1 end;
create macro catalog_array_to_string(a, b) as list_aggregate(a, 'string_agg', b);
create macro catalog_quote_ident
  (a) as case when regexp_full_match(a, '[a-z_][a-z0-9_$]*') then a else '"' || replace(a, '"', '""') || '"' end;
create macro catalog__pg_expandarray
  (a) as unnest(list_transform(range(1, len(a) + 1), lambda n: {'x': a[n], 'n': n::integer}));
create macro catalog_generate_series(a, b) as unnest(range(a::bigint, least(b::bigint, 1000) + 1));
create macro catalog_generate_subscripts(a, b) as unnest(range(1, len(a) + 1));
create macro catalog_series(a, b) as range(a::bigint, least(b::bigint, 1000) + 1);
create macro catalog_format_type
  (a, b) as (
    select any_value(
      case when t.typelem = 0 then t.display
        else (select any_value(e.display) from types as e where e.oid = t.typelem) || '[]' end
      || case when t.oid = 1700 and b > 4 then '(' || ((b - 4) >> 16) || ',' || ((b - 4) & 65535) || ')' else '' end
    )
    from types as t
    where t.oid = a
  );
create macro catalog_to_regclass
  (a) as (select any_value(oid) from pg_class where relname = replace(split_part('.' || a, '.', -1), '"', ''));
create macro catalog_to_regtype(a) as (select any_value(oid) from types where a in (typname, display));
create macro catalog_regclass
  (a varchar) as (
    select any_value(oid)
    from pg_class
    where oid::varchar = a or relname = replace(split_part('.' || a, '.', -1), '"', '')
  ),
  (a bigint) as (select any_value(relname) from pg_class where oid = a);
create macro catalog_regtype
  (a varchar) as (select any_value(oid) from types where a in (typname, display)),
  (a bigint) as (select any_value(display) from types where oid = a);
