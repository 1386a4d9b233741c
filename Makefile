# fernvpn: `make` alone lists what can be made.

SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
PROGRAM := $(or $(CARGO_TARGET_DIR),target)/release/fernvpn
KEYS := fernvpn.key
export PATH := $(CURDIR)/target/python/bin:$(PATH)
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# A build for the processor at hand has an AES-GCM that is up to 1.4 times as fast. For any processor: make build RUSTFLAGS=
export RUSTFLAGS ?= -C target-cpu=native

# Where `make run-server` listens and `make run-client` connects.
ADDRESS ?= 127.0.0.1:12345

.PHONY: help
help: ## prints this list
	@echo 'make ...'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	    printf '%-15s %s\n' "  $${target## }" "$$text"; done

.PHONY: build
build: toolchain ## builds the program, optimised: target/release/fernvpn
	$(CARGO) build --release --locked

# Ctrl-C ends the program in order, with status 0. On a terminal make itself would also get Ctrl-C, and fail. So a shell with
# a process group of its own runs the program there, and passes signals on.
define in_foreground
if [ ! -t 0 ]; then exec "$$@"; fi; \
exec bash -mc 'trap "kill -INT \$$program" INT TERM HUP; "$$@" & program=$$!; \
    { wait $$program; wait $$program; } 2>/dev/null' fernvpn "$$@"
endef

.PHONY: run-server
run-server: build $(KEYS) ## runs a server on 127.0.0.1:12345 until Ctrl-C; makes fernvpn.key first
	@set -- $(PROGRAM) server -k $(KEYS) --listen $(ADDRESS) --private-if-allowed; echo "$$*"; $(in_foreground)

.PHONY: run-client
run-client: build server-was-started ## in a second terminal: says hello, pings through the tunnel, and stays until Ctrl-C
	@set -- $(PROGRAM) client -k $(KEYS) --connect $(ADDRESS) --private-if-allowed --ping --send 'Hello, World!'; \
	echo "$${*:1:$$#-1} 'Hello, World!'"; $(in_foreground)

# The server makes the key as soon as it is built. The wait ends after ten minutes.
.PHONY: server-was-started
server-was-started: build
	@[ -e $(KEYS) ] || echo 'waiting for $(KEYS), which the server makes. In another terminal: make run-server' >&2; \
	for ((i = 0; i < 600; i++)); do [ ! -e $(KEYS) ] || exit 0; sleep 1; done; \
	echo 'no server has made $(KEYS) within ten minutes. In another terminal: make run-server' >&2; exit 1

$(KEYS): | build
	@umask 077; for name in alice bob; do echo "$$($(PROGRAM) genkey)   # $$name"; done > $@.new && mv $@.new $@
	@echo 'made $(KEYS): a secret key for alice and one for bob; both may connect'

.PHONY: demo
demo: demo-needs build ## shows a server, two clients, pings and a file in one terminal; leaves nothing behind
	@FERNVPN=$(PROGRAM) tests/demo.sh

# If something is still missing, the demo says what it leaves out.
.PHONY: demo-needs
demo-needs:
	@tests/needs.sh demo || true

# Two scripts run at a time, and mostly wait. The longest ones come first.
SCRIPTS := $(addprefix tests/, faults.sh package.sh netns.sh lab/test.py audit/planted.sh routing.sh crash.sh nat.sh neighbours.sh inside.sh capture.sh \
    reload.sh names.sh status.sh kept.sh balancer.sh sites.sh privileges.sh demo.sh)

.PHONY: test
test: ## runs every check and test, as root also in network namespaces; on Debian, root installs what they need
	@tests/all.sh

.PHONY: scripts $(SCRIPTS)
scripts: $(SCRIPTS)
$(SCRIPTS): build
	FERNVPN=$(PROGRAM) $@

.PHONY: check
check: toolchain ## checks format, lints and the links of the documentation; any warning is an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

# What Linux has alone is then as it is on other systems. Other flags would not change what is checked.
.PHONY: check-portable
check-portable: export RUSTFLAGS = --cfg fernvpn_portable -D warnings
check-portable: export CARGO_TARGET_DIR = target/portable
check-portable: toolchain ## checks and tests, on Linux, the code that runs on other systems
	$(CARGO) check --locked --bins
	$(CARGO) test --locked --no-fail-fast --lib --test commands --test core --test decode

# Seconds for each target, and the targets. The search for leaks is off: it takes a thread that is just ending for a leak.
FUZZ_SECONDS ?= 60
FUZZ ?= $(basename $(notdir $(wildcard fuzz/targets/*.rs)))

.PHONY: fuzz
fuzz: toolchain ## fuzzes every property of fuzz/ for FUZZ_SECONDS each; needs cargo-fuzz
	@cargo fuzz --version >/dev/null || { echo 'cargo-fuzz is missing. Try: cargo install cargo-fuzz' >&2; exit 1; }
	set -e; for target in $(FUZZ); do echo "== $$target"; mkdir -p fuzz/corpus/$$target fuzz/regressions/$$target; \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --release --fuzz-dir fuzz $$target fuzz/corpus/$$target fuzz/seeds/$$target \
	        fuzz/regressions/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=1024 -max_len=8192 \
	        -detect_leaks=0 -print_final_stats=1 2>&1 | tee fuzz/corpus/$$target.log | grep -E 'stat::|DONE|ERROR|panicked|Test unit' || true; \
	    grep -q '^Done ' fuzz/corpus/$$target.log || { tail -n 40 fuzz/corpus/$$target.log; exit 1; }; done

.PHONY: lesson
lesson: build ## makes docs/lesson/index.html, where the program explains every byte of a session
	$(PROGRAM) explain --html docs/lesson/index.html
	@echo 'Open it in a browser: file://$(CURDIR)/docs/lesson/index.html'

# The number of clients at once, and the seconds of each flood of strangers.
SCALE ?= 10000
FLOOD_SECONDS ?= 10

.PHONY: scale
scale: toolchain ## measures SCALE clients at once, and floods: memory, mappings, handshakes a second, slowdown
	ulimit -n "$$(ulimit -H -n)"; FERNVPN_SCALE=$(SCALE) FERNVPN_FLOOD=$(FLOOD_SECONDS) \
	    $(CARGO) test --release --locked --test scale -- --nocapture --test-threads 1

# The tests of the trusted core that are quick.
CORE_TESTS := --lib --test core --test fuzz
MUTANTS ?=

.PHONY: mutants
mutants: toolchain ## Does a test fail for every small change of the trusted core? needs cargo-mutants; MUTANTS takes its options
	$(CARGO) mutants --file 'src/fernet/*.rs' --file 'src/protocol/*.rs' --output target --timeout 120 $(MUTANTS) -- $(CORE_TESTS)

# There is no optimisation here, because an inlined line counts as missed. Sealing a gibibyte would then take too long, and
# that test reaches no line of its own.
NOT_CORE := audit:: commands:: config:: os:: packet:: tunnel:: a_rekey_is_due_after_a_gibibyte

.PHONY: coverage
coverage: toolchain ## Which lines of the trusted core does no quick test reach? needs cargo-tarpaulin
	CARGO_PROFILE_TEST_OPT_LEVEL=0 $(CARGO) tarpaulin --engine ptrace --timeout 900 --skip-clean --target-dir target/coverage \
	    --include-files 'src/fernet/*' 'src/protocol/*' $(subst --test fuzz,,$(CORE_TESTS)) -- $(addprefix --skip ,$(NOT_CORE))

.PHONY: timing
timing: toolchain ## Does the time of opening depend on where a tag differs? dudect's method; it must find a planted flaw
	$(CARGO) bench --locked --bench timing

SOAK_MINUTES ?= 120

.PHONY: soak
soak: build ## makes random faults under checked traffic for SOAK_MINUTES; as root
	FERNVPN=$(PROGRAM) tests/soak.sh $(SOAK_MINUTES)

.PHONY: model
model: ## Does a tool find an attack on the protocol, or only on variants with planted flaws? needs verifpal and spin
	python3 docs/model/check.py

.PHONY: lab
lab: ## lets you attack the protocol from the middle (docs/LAB.md); needs no root and no Rust
	@python3 tests/lab/lab.py

.PHONY: audit
audit: build ## Is the tree as docs/AUDIT.md says? crates, unsafe code, imports, size limits, vectors, documents
	FERNVPN=$(PROGRAM) python3 tests/audit/audit.py

.PHONY: audit-test
audit-test: build ## Does make audit notice? plants violations in a copy of the tree
	FERNVPN=$(PROGRAM) tests/audit/planted.sh

.PHONY: repro
repro: toolchain ## Do two builds in different folders make the same bytes?
	tests/audit/repro.sh

.PHONY: bench
bench: toolchain ## How fast is the trusted core?
	$(CARGO) bench --locked --bench core

.PHONY: bench-tokens
bench-tokens: toolchain ## How fast are tokens, beside Python's and another crate's?
	$(CARGO) build --release --locked --example tokens
	python3 benches/tokens.py

.PHONY: bench-tunnel
bench-tunnel: build ## How fast is the tunnel, beside other VPNs? as root
	$(CARGO) build --release --locked --example relay --example path
	python3 benches/tunnel.py

# What the program prints (fernvpn help --man fernvpn.8), and its place below PREFIX.
PRINTED := \
    man=fernvpn.8:share/man/man8/fernvpn.8 \
    man=fernvpn.conf.5:share/man/man5/fernvpn.conf.5 \
    completions=bash:share/bash-completion/completions/fernvpn \
    completions=zsh:share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)/_fernvpn \
    completions=fish:share/fish/vendor_completions.d/fernvpn.fish

# Each file and its place below PREFIX.
INSTALLED := \
    packaging/systemd/fernvpn-server@.service:lib/systemd/system/fernvpn-server@.service \
    packaging/systemd/fernvpn-client@.service:lib/systemd/system/fernvpn-client@.service \
    packaging/systemd/sysusers.conf:lib/sysusers.d/fernvpn.conf \
    packaging/systemd/polkit.rules:share/polkit-1/rules.d/fernvpn.rules

.PHONY: install
install: ## installs program, units, man pages, completions and documents into PREFIX (after make build; takes DESTDIR)
	@[ -x $(PROGRAM) ] || { echo 'cannot install: there is no $(PROGRAM). Try: make build' >&2; exit 1; }
	install -D -m 755 $(PROGRAM) '$(DESTDIR)$(PREFIX)/bin/fernvpn'
	@for pair in $(INSTALLED); do \
	    echo "install -D -m 644 $${pair%%:*} '$(DESTDIR)$(PREFIX)/$${pair##*:}'"; \
	    install -D -m 644 "$${pair%%:*}" '$(DESTDIR)$(PREFIX)'/"$${pair##*:}" || exit 1; done
	@for pair in $(PRINTED); do \
	    kind=$${pair%%=*} name=$${pair#*=} to='$(DESTDIR)$(PREFIX)'/"$${pair##*:}"; name=$${name%%:*}; \
	    echo "$(PROGRAM) help --$$kind $$name >$$to"; \
	    install -D -m 644 /dev/null "$$to" && $(PROGRAM) help "--$$kind" "$$name" >"$$to" || exit 1; done
	sed -i 's|/usr/bin/fernvpn|$(PREFIX)/bin/fernvpn|' '$(DESTDIR)$(PREFIX)'/lib/systemd/system/fernvpn-*@.service
	install -d '$(DESTDIR)$(PREFIX)/share/doc/fernvpn/examples'
	install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE docs/*.md '$(DESTDIR)$(PREFIX)/share/doc/fernvpn'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/doc/fernvpn/lesson' docs/lesson/index.html
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/doc/fernvpn/wireshark' docs/wireshark/README.md docs/wireshark/fernvpn.lua
	install -m 644 packaging/examples/* '$(DESTDIR)$(PREFIX)/share/doc/fernvpn/examples'

.PHONY: uninstall
uninstall: ## removes what install put there
	rm -f '$(DESTDIR)$(PREFIX)/bin/fernvpn'
	@for pair in $(PRINTED) $(INSTALLED); do \
	    echo "rm -f '$(DESTDIR)$(PREFIX)/$${pair##*:}'"; rm -f '$(DESTDIR)$(PREFIX)'/"$${pair##*:}"; done
	rm -rf '$(DESTDIR)$(PREFIX)/share/doc/fernvpn'

.PHONY: deb
deb: toolchain ## makes a Debian package for any processor: target/fernvpn_VERSION_ARCHITECTURE.deb
	RUSTFLAGS= $(CARGO) build --release --locked --target-dir target/any
	FERNVPN=target/any/release/fernvpn packaging/deb

.PHONY: clean
clean: ## removes everything that was built; keeps fernvpn.key
	rm -rf target

.PHONY: toolchain
toolchain:
	@if ! command -v $(CARGO) >/dev/null; then \
	    echo 'Rust $(RUST) or newer is missing. https://rustup.rs installs it for you alone, without root:' >&2; \
	    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2; \
	    echo 'On Debian 12: sudo apt-get install -y cargo-web' >&2; exit 1; fi
	@if ! command -v cc >/dev/null; then \
	    echo 'The C linker cc is missing, which Rust needs. On Debian: sudo apt-get install -y gcc libc6-dev' >&2; exit 1; fi
	@version=$$(rustc --version | cut -d ' ' -f 2); \
	if [ "$$(printf '%s\n' $(RUST) "$$version" | sort -V | head -n 1)" != $(RUST) ]; then \
	    echo "Rust $(RUST) or newer is needed, and this is $$version. With rustup: rustup update stable" >&2; \
	    echo 'On Debian 12 without rustup: sudo apt-get install -y cargo-web' >&2; exit 1; fi
