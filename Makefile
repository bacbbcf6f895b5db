# CI runs the same commands. The first command that needs it creates .venv with all dependencies.
PYTHON ?= python3
BIN := .venv/bin
HEADWATER := ../../$(BIN)/headwater

# Write bytecode even if the shell disables it: tests start hundreds of processes, and each would compile the project.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo demo-s3 shop cluster-demo test check lint docs proofs bench kafka peers lock clean

help:  ## list these commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.ready  ## install the command headwater into the environment .venv
	@echo "headwater is in $(CURDIR)/$(BIN): source .venv/bin/activate"

demo: .venv/.ready  ## run the flights project end to end and show the results
	@cd examples/flights && $(HEADWATER) run --no-summary
	@echo && cd examples/flights && $(HEADWATER) query "from flight_totals" \
		"select airline, flights from busiest_airlines order by flights desc limit 4"
	@echo && cd examples/flights && $(HEADWATER) stream --until-caught-up && $(HEADWATER) verify departure_delays && \
		$(HEADWATER) verify late_twice
	@echo && cd examples/flights && $(HEADWATER) query \
		"select origin, sum(departures)::bigint as departures, sum(late)::bigint as late, max(worst_delay) as worst_delay \
		from departure_delays group by origin order by origin" \
		"select count(*) as late_twice, count(distinct tailnum) as planes from late_twice"
	@echo && cd examples/flights && $(HEADWATER) serve --check --port 8421
	@echo && cd examples/flights && PYTHONPATH=$(CURDIR) ../../$(BIN)/python endpoints.py
	@echo && cd examples/flights && $(HEADWATER) show
	@echo && cd examples/flight_model && PYTHONPATH=$(CURDIR) ../../$(BIN)/python live.py

demo-s3: .venv/.ready  ## run the flights project with its lake on an object store that it starts itself
	@cd examples/flights && PYTHONPATH=$(CURDIR) ../../$(BIN)/python demo_s3.py

shop: .venv/.ready kafka  ## run the shop project: a database, an API, a bucket and a topic, on servers that it starts itself
	@cd examples/shop && PYTHONPATH=$(CURDIR) ../../$(BIN)/python demo.py

cluster-demo: .venv/.ready  ## run the flights project on a local Ray cluster that grows from one node to three
	@cd examples/flights && $(HEADWATER) cluster start --min-nodes 1 --nodes 3 && \
		{ $(HEADWATER) submit --wait --var HEADWATER_EXECUTION=ray run --full --threads 4 --deadline 2min & job=$$!; \
		while sleep 3 && kill -0 $$job 2>/dev/null; do echo && $(HEADWATER) cluster status; done; \
		wait $$job; result=$$?; $(HEADWATER) cluster stop; exit $$result; }

test: .venv/.ready  ## format, lint, import rules, and the tests, with the type check in parallel
	@$(MAKE) --no-print-directory lint
	@echo "$(BIN)/mypy, beside $(BIN)/python -m pytest"
	@log=$$(mktemp); $(BIN)/mypy > "$$log" 2>&1 & types=$$!; \
		$(BIN)/python -m pytest; tests=$$?; \
		wait $$types; types=$$?; cat "$$log"; rm -f "$$log"; exit $$(( tests || types ))

check: .venv/.ready  ## check format, lint, types and import rules
	@$(MAKE) --no-print-directory lint
	$(BIN)/mypy

lint: .venv/.ready  ## check format, lint and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

docs: .venv/.ready  ## run all examples of the documentation
	$(BIN)/python -m pytest tests/docs

proofs: .venv/.ready  ## run all tests, including the long ones: every fault, case and seed
	HEADWATER_PROOFS=1 $(BIN)/python -m pytest --timeout 3600

bench: .venv/.ready  ## run a benchmark: make bench NAME=etl (default: demo; list: python -m benchmarks -h)
	$(BIN)/python -m benchmarks $(or $(NAME),demo)

kafka: .venv/.ready  ## install Apache Kafka from Maven Central in .kafka, for tests and benchmarks (needs Java 17, Maven)
	@$(BIN)/python -m benchmarks.kafka

peers: .venv/.ready  ## install the engines that benchmarks compare with: .peers (batch), .peers-streams and .peers-flink (streams), .peers-sources, .peers-feast, .peers-api; and servers for tests: .peers-snowflake (a double of Snowflake), .peers-readers (readers of Delta), .peers-torch (PyTorch, 5 GB), .peers-go (MongoDB, Pub/Sub, Google Cloud Storage; needs Go), .peers-npm (Azure, an identity provider, a data set, and clients of GraphQL; needs Node), .peers-odata (clients of OData; needs Maven and Node), .peers-sharing and .peers-hyper (readers of what is exported), .peers-mysql (MySQL; needs apt-get of Debian), .peers-r (R; likewise), .peers-registry (Apicurio Registry; needs Maven)
	@uv=$$(cat .venv/.ready) && for home in "" -streams -flink -sources -snowflake -readers -feast -torch -api; do \
		"$$uv" venv --quiet --allow-existing --python $(BIN)/python .peers$$home && \
		"$$uv" pip install --quiet --python .peers$$home/bin/python -r benchmarks/peers/requirements$$home.txt || \
		echo "the engines of .peers$$home cannot be installed here and are skipped"; done
	@$(BIN)/python -m benchmarks.peers.jars
	@$(BIN)/python -m tests.rigs.go_programs
	@$(BIN)/python -m tests.rigs.npm_programs
	@$(BIN)/python -m tests.rigs.odata_clients
	@$(BIN)/python -m tests.rigs.mysql_program
	@$(BIN)/python -m tests.rigs.r_program
	@$(BIN)/python -m tests.rigs.apicurio
	@command -v java >/dev/null || echo "Spark and Flink need Java 17 and are skipped"

lock: .venv/.ready  ## lock the newest versions that pyproject.toml allows
	$$(cat .venv/.ready) pip compile --quiet --universal --generate-hashes --no-header --upgrade \
		--extra dev pyproject.toml --output-file requirements.lock

clean:  ## remove everything that these commands created
	rm -rf .venv .peers .peers-* .kafka .uv build *.egg-info examples/*/.headwater .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# .ready contains the path of uv: from PATH, or installed by pip into .uv
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headwater needs Python 3.11 or newer: make PYTHON=/path/to/python3.12"; exit 1; }
	@command -v uv >/dev/null || [ -x .uv/bin/uv ] || $(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv
	@uv=$$(command -v uv || echo $(CURDIR)/.uv/bin/uv); \
		"$$uv" venv --quiet --allow-existing --python $$($(PYTHON) -c 'import sys; print(sys.executable)') .venv && \
		"$$uv" pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock && \
		"$$uv" pip install --quiet --python $(BIN)/python --no-deps --editable . && \
		echo "$$uv" > $@
