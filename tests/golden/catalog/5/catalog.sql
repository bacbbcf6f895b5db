BEGIN TRANSACTION;
CREATE TABLE api_keys (
	id VARCHAR NOT NULL, 
	env VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	last_four VARCHAR NOT NULL, 
	roles_json TEXT NOT NULL, 
	scopes_json TEXT NOT NULL, 
	claims_json TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	last_used_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
INSERT INTO "api_keys" VALUES('7Um13J84','dev','app','8cb65ee251fe84c897b759b5b8a6dcde7eec75d68ea18939ecc4920408d401f3','i4ea','["sales"]','["read"]','{"region": ["EU", "US"]}',0.0,NULL,NULL,NULL);
CREATE TABLE checks (
	run_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	expectation VARCHAR NOT NULL, 
	condition TEXT NOT NULL, 
	action VARCHAR NOT NULL, 
	rows BIGINT NOT NULL, 
	violations BIGINT NOT NULL, 
	PRIMARY KEY (run_id, name, expectation)
);
INSERT INTO "checks" VALUES('r1','orders','is_possible','degrees < 99','quarantine',10,3);
CREATE TABLE column_changes (
	run_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	"column" VARCHAR NOT NULL, 
	type_before VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	read_by_json TEXT NOT NULL, 
	at VARCHAR NOT NULL, 
	PRIMARY KEY (run_id, name, "column")
);
INSERT INTO "column_changes" VALUES('r1','raw_orders','v','BIGINT','DOUBLE','["orders"]','2024-01-01T00:00:00+00:00');
CREATE TABLE headwater_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT headwater_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "headwater_alembic_version" VALUES('0005');
CREATE TABLE leases (
	name VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	host VARCHAR NOT NULL, 
	machine VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	since FLOAT NOT NULL, 
	until FLOAT NOT NULL, 
	wish VARCHAR NOT NULL, 
	facts_json TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('by_minute','holder','host','',1,0.0,10.0,'run','{"status": "starting"}');
CREATE TABLE lineage (
	name VARCHAR NOT NULL, 
	version BIGINT NOT NULL, 
	input VARCHAR NOT NULL, 
	input_version BIGINT NOT NULL, 
	PRIMARY KEY (name, version, input)
);
INSERT INTO "lineage" VALUES('orders',3,'raw_orders',7);
CREATE TABLE partitions (
	name VARCHAR NOT NULL, 
	partition_json VARCHAR NOT NULL, 
	backfill VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	at VARCHAR NOT NULL, 
	rows BIGINT NOT NULL, 
	seconds FLOAT NOT NULL, 
	error TEXT, 
	PRIMARY KEY (name, partition_json)
);
INSERT INTO "partitions" VALUES('orders','"2024-01-01"','b1','r1','2024-01-01T00:00:00+00:00',4,0.5,NULL);
CREATE TABLE registry_schemas (
	id INTEGER NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	guid VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	text TEXT NOT NULL, 
	normalized TEXT NOT NULL, 
	references_json TEXT NOT NULL, 
	metadata_json TEXT NOT NULL, 
	rules_json TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (fingerprint), 
	UNIQUE (guid)
);
INSERT INTO "registry_schemas" VALUES(1,'04e6b56eacbac5f07905367c732549238420919dbec4991e4c54ae13b1be74a8','04e6b56e-acba-c5f0-7905-367c73254923','JSON','{"type":"string"}','{"type":"string"}','[]','{"properties": {"owner": "us"}}','null');
CREATE TABLE registry_settings (
	subject VARCHAR NOT NULL, 
	compatibility VARCHAR, 
	mode VARCHAR, 
	PRIMARY KEY (subject)
);
INSERT INTO "registry_settings" VALUES('orders-value','FULL',NULL);
CREATE TABLE registry_versions (
	subject VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	schema_id INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	PRIMARY KEY (subject, version)
);
INSERT INTO "registry_versions" VALUES('orders-value',1,1,'live');
CREATE TABLE runs (
	run_id VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	env VARCHAR NOT NULL, 
	started_at VARCHAR NOT NULL, 
	ended_at VARCHAR, 
	status VARCHAR NOT NULL, 
	error TEXT, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('r1','plant','dev','2024-01-01T00:00:00+00:00',NULL,'running',NULL);
CREATE TABLE sessions (
	digest VARCHAR NOT NULL, 
	env VARCHAR NOT NULL, 
	key_id VARCHAR NOT NULL, 
	caller_json TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	last_seen_at FLOAT NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "sessions" VALUES('5e55','dev','a1b2c3d4','',0.0,9.0,0.0);
CREATE TABLE steps (
	run_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	layer VARCHAR NOT NULL, 
	decision VARCHAR NOT NULL, 
	reason TEXT NOT NULL, 
	strategy VARCHAR NOT NULL, 
	executor VARCHAR NOT NULL, 
	version BIGINT, 
	seconds FLOAT NOT NULL, 
	total_rows BIGINT NOT NULL, 
	rows_in BIGINT DEFAULT '0' NOT NULL, 
	rows_made BIGINT DEFAULT '0' NOT NULL, 
	rows_out BIGINT DEFAULT '0' NOT NULL, 
	quarantined BIGINT DEFAULT '0' NOT NULL, 
	dropped BIGINT DEFAULT '0' NOT NULL, 
	late BIGINT DEFAULT '0' NOT NULL, 
	bytes_in BIGINT DEFAULT '0' NOT NULL, 
	superseded BIGINT DEFAULT '0' NOT NULL, 
	deletes BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (run_id, name)
);
INSERT INTO "steps" VALUES('r1','orders',0,'table','silver','append','2 new files','blockwise','inline',3,1.5,99,10,10,7,3,0,0,120,0,0);
CREATE TABLE systems (
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	paused_s FLOAT NOT NULL, 
	calls BIGINT NOT NULL, 
	failures BIGINT NOT NULL, 
	run_id VARCHAR NOT NULL, 
	at VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "systems" VALUES('api.example.com','closed',0.0,12,2,'r1','2024-01-01T00:00:00+00:00');
CREATE TABLE verdicts (
	run_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	accepted BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	metrics_json TEXT NOT NULL, 
	uri VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	rows BIGINT NOT NULL, 
	PRIMARY KEY (run_id, name)
);
INSERT INTO "verdicts" VALUES('r1','orders',1,'better','{"auc": 0.7}','models:/m/1','1',7);
CREATE TABLE versions (
	name VARCHAR NOT NULL, 
	version BIGINT NOT NULL, 
	layer VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	at VARCHAR NOT NULL, 
	rows BIGINT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	schema_json TEXT NOT NULL, 
	PRIMARY KEY (name, version)
);
INSERT INTO "versions" VALUES('orders',3,'silver','r1','2024-01-01T00:00:00+00:00',99,120,'{"id": "BIGINT"}');
COMMIT;
