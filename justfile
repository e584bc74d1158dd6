set shell := ["bash", "-euo", "pipefail", "-c"]

run := "uv run --no-sync"

# List the recipes.
default:
    @just --list

# Make .venv with every package of the workspace.
sync:
    uv sync --all-packages --all-extras --quiet

# Run the tests; arguments go to pytest.
test *args: sync
    {{ run }} pytest {{ args }}

# Check style, types, the walls between packages and their declared dependencies.
lint: sync
    {{ run }} ruff check
    {{ run }} ruff format --check
    {{ run }} mypy shared/src packages/*/src
    {{ run }} lint-imports
    for package in shared packages/*; do (cd $package && {{ run }} deptry src); done

# Format the code and apply the linter's safe fixes.
format: sync
    {{ run }} ruff check --fix
    {{ run }} ruff format

# The main job of disc-train on a real table that the statsmodels wheel carries.
demo: sync
    rm -rf runs/demo && mkdir -p runs/demo
    {{ run }} disc-train split builtin:fair --out runs/demo/data
    {{ run }} disc-train train runs/demo/data/train.csv --target rate_marriage --preset small --out runs/demo/run
    {{ run }} disc-train sample runs/demo/run -n 5000 > runs/demo/synth.csv
    {{ run }} disc-train sample runs/demo/run -n 5 --where 'children>=2' --where religious=4
    {{ run }} disc-train evaluate --train runs/demo/data/train.csv --test runs/demo/data/test.csv \
        runs/demo/synth.csv --target rate_marriage --out runs/demo/evaluation

# Put every tool beside its peers.
bench DATA TARGET: (bench-tabular DATA TARGET)

# disc-train beside its peers on one table, one seed: just bench-tabular heloc.csv RiskPerformance
bench-tabular DATA TARGET *args: sync
    {{ run }} python tools/bench_tabular.py --data {{ DATA }} --target {{ TARGET }} --seeds 0 \
        --out runs/bench-tabular {{ args }}

# The slow trainings behind the figures of disc-train's README: three seeds.
accept-tabular DATA TARGET *args: sync
    {{ run }} python tools/bench_tabular.py --data {{ DATA }} --target {{ TARGET }} --seeds 0 1 2 \
        --out runs/accept-tabular {{ args }}

# Does teaching help? The schedules of disc-train side by side, three seeds: a table for its README.
accept-schedules DATA TARGET *args: sync
    {{ run }} python tools/schedules_tabular.py --data {{ DATA }} --target {{ TARGET }} \
        --out runs/accept-schedules {{ args }}

# Peak memory of training on 50,000 x 15 and of sampling a million rows.
accept-limits *args: sync
    {{ run }} python tools/limits_tabular.py --out runs/accept-limits {{ args }}

# The figures of qa-train's README: both models and presets, three seeds, beside the shortcuts.
accept-stories *args: sync
    {{ run }} python tools/accept_stories.py --out runs/accept-stories {{ args }}

# bAbI's qa6, three seeds, from the folder that holds qa6_train.txt: a table for qa-train's README.
accept-babi TASKS *args: sync
    {{ run }} python tools/accept_babi.py {{ TASKS }} --out runs/accept-babi {{ args }}

# Training throughput of qa-train's Transformer beside the Hugging Face Trainer.
bench-stories *args: sync
    {{ run }} --with accelerate python tools/bench_stories.py {{ args }}

# Is what ablate says of a suite true? 2,000 simulated suites with known effects for each kind of noise.
accept-statistics *args: sync
    {{ run }} python tools/simulate_suites.py {{ args }}

# What ablate's scheduling adds to each of 500 trivial runs.
bench-scheduling *args: sync
    {{ run }} python tools/bench_scheduling.py {{ args }}

# Rewrite what is generated: the command references in the READMEs and each tool's constraints.txt.
docs: sync
    {{ run }} python tools/command_reference.py
    tools/export_constraints
