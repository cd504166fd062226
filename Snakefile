"""The study as a workflow: data -> explore, balance -> train (variant x backbone x realisation) -> evaluate -> map -> book.

    snakemake --cores 2                                  # everything up to the evaluation and the map
    snakemake --cores 2 --dry-run                        # what would run
    snakemake --cores 2 book                             # and the rendered book
    snakemake --cores 16 --resources runs_per_gpu=4 --config config=paper threads=4    # four runs share the GPU
    snakemake --cores 2 --config realisations=11 backbones=densenet121 variants=bl,lim_ms_all config=paper
    snakemake --cores 2 --config data=houses.csv tasks=houses.yaml
    snakemake --cores 2 grid                             # interdependency x ambiguity
    snakemake --cores 1 grid_so_far                      # its tables from the runs that are there
    snakemake --profile profiles/slurm                   # a cluster (untested)
    snakemake --cores 2 --config parts=8                 # prediction in 8 jobs that may run on 8 machines

A run is finished when its folder holds COMPLETE; repeating the command resumes whatever is not. profiles/default, which
Snakemake reads by itself, holds the settings that make stopping and repeating safe.
"""

import os
import shlex
import sys
from pathlib import Path

from mtclim.config import load_config, project_root, run_folder


def listed(name, default):
    """A comma-separated setting of the command line as a list."""
    given = str(config.get(name) or "")
    return given.split(",") if given else list(default)


PRESET = config.get("config", "demo")
DATA = {name: config[name] for name in ("data", "tasks") if config.get(name)}
SETTINGS = load_config(PRESET, **DATA)
DATA = {"data": SETTINGS.data} | DATA  # said in each notebook, so that its page can tell synthetic from real
BACKBONES = listed("backbones", [SETTINGS.backbone])
VARIANTS = listed("variants", [*SETTINGS.study["variants"], *SETTINGS.study["controls"]])
SEEDS = range(int(config.get("realisations") or SETTINGS.study["realisations"]))
ROOT = str(run_folder(SETTINGS).parents[2].relative_to(project_root()))
RESULTS = config.get("results") or f"{ROOT}/results"
NOTEBOOKS = f"{RESULTS}/notebooks"
RUN = ROOT + "/{backbone}/{variant}/seed-{seed}"
RUNS = expand(RUN, backbone=BACKBONES, variant=VARIANTS, seed=SEEDS)
SHOWN = "lim_ms_all" if "lim_ms_all" in VARIANTS else VARIANTS[-1]
BEST = f"{ROOT}/{BACKBONES[0]}/{SHOWN}/seed-0"
PARTS = int(config.get("parts") or 1)

# Each run's own share of the cores: the preset's where it says one, since another number gives other last digits.
THREADS = SETTINGS.threads or int(config.get("threads") or workflow.cores or 1)

GRID = SETTINGS.study.get("grid", {})
LEVELS = [str(level) for level in GRID.get("levels", (0.0, 0.5, 1.0))]
AMBIGUITIES = [str(level) for level in GRID.get("ambiguities", (0.1, 0.3, 0.6))]
GRID_SEEDS = range(int(config.get("grid_realisations") or GRID.get("realisations", 5)))
GRID_RUN = "runs/grid/interdependency-{level}/ambiguity-{ambiguity}/{variant}/seed-{seed}"
CORNERS = {(level, ambiguity) for level in (LEVELS[0], LEVELS[-1]) for ambiguity in (AMBIGUITIES[0], AMBIGUITIES[-1])}
GRID_RUNS = [
    GRID_RUN.format(level=level, ambiguity=ambiguity, variant=variant, seed=seed)
    for level in LEVELS
    for ambiguity in AMBIGUITIES
    for variant in ["bl", "lim_ms_all"] + (["clim_ms_bl", "tlim"] if (level, ambiguity) in CORNERS else [])
    for seed in GRID_SEEDS
]


def given(**parameters):
    """papermill's arguments for the parameters that are set."""
    pairs = {"config": PRESET} | DATA | parameters
    return " ".join(shlex.join(["-p", name, str(value)]) for name, value in pairs.items() if value != "")


def of_variant(variant):
    """A variant's parameters: the detached control is written ``lim_ms_all-detach``."""
    name, _, control = variant.partition("-")
    return {"variant": name} | ({"detach": True} if control == "detach" else {})


def notebook(name, what, to="{output}"):
    """The command for one notebook: quiet on the terminal, all in the log; a failure says what failed and where to read.

    Thread pools take their size from the environment when they are first imported, so it is set before Python starts.
    """
    threads = " ".join(f"{library}_NUM_THREADS={{threads}}" for library in ("OMP", "MKL", "OPENBLAS"))
    papermill = f"{shlex.quote(sys.executable)} -m papermill --no-progress-bar --log-output"
    return f"{threads} {papermill} notebooks/{name}.ipynb {to} {{params}} {told(what)}"


def of_wildcards(pattern):
    """A path pattern of an output for use in a command."""
    return pattern.replace("{", "{wildcards.")


def flags(runs):
    """The files beside run folders that tell Snakemake which are finished, brought up to date with the runs' markers.

    Snakemake removes the outputs of a job before it runs it: a run's own marker must not be one of them.
    """
    for run in map(Path, runs):
        marker, flag = run / "COMPLETE", run.with_name(f"{run.name}.done")
        if not marker.exists():
            flag.unlink(missing_ok=True)
        elif not flag.exists():
            flag.touch()
            os.utime(flag, (marker.stat().st_mtime,) * 2)
    return [f"{run}.done" for run in runs]


def told(what):
    return f"> {{log}} 2>&1 || {{{{ tail -n 15 {{log}} >&2; echo 'FAILED: {what}; its log: {{log}}' >&2; exit 1; }}}}"


def write_grid(table, runs, sentences, figure):
    """The grid of cities from whatever runs are there: scores of runs, gains with intervals, what they say, a figure.

    Runs that ``runs`` (CSV) already lists stay, so that a grid can be finished in parts and on several machines.
    """
    from mtclim.analysis import evidence, figures
    from mtclim.analysis.comparison import title
    from mtclim.analysis.study import grid_scores

    scores = grid_scores("runs/grid", runs)
    tasks = list(scores.columns[scores.columns.get_loc("mean") + 1 :])
    gains = evidence.grid_table(scores, tasks)
    parts = {
        f"{title(variant)}, {task}": rows
        for (variant, task), rows in gains.groupby(["variant", "task"], sort=False)
        if task == "mean" or variant == "lim_ms_all"
    }
    Path(runs).parent.mkdir(parents=True, exist_ok=True)
    scores.to_csv(runs, index=False)
    gains.round(3).to_csv(table, index=False)
    lines = "".join(f"- {line}\n" for line in evidence.grid_report(scores, tasks))
    Path(sentences).write_text(lines, encoding="utf-8")
    figures.grid(parts, synthetic=True).savefig(figure)


rule study:
    input:
        expand(NOTEBOOKS + "/{name}.ipynb", name=["explore", "balance", "train", "evaluate", "map"]),


# The table is read, the city drawn and the images decoded once, before several runs ask for them at the same time.
rule data:
    output:
        touch(ROOT + "/.data"),
    log:
        ROOT + "/data.log",
    threads: workflow.cores or 1
    params:
        shlex.join([PRESET, DATA["data"], DATA.get("tasks", "")]),
    shell:
        f"{shlex.quote(sys.executable)} -c 'import sys; from mtclim import load_config, prepare; "
        "prepare.prepare(load_config(sys.argv[1], data=sys.argv[2], tasks=sys.argv[3]))' {params} " + told("the data")


rule look:
    input:
        ancient(rules.data.output),
    output:
        NOTEBOOKS + "/{name,explore|balance}.ipynb",
    log:
        ROOT + "/{name}.log",
    params:
        given(),
    shell:
        notebook("{wildcards.name}", "{wildcards.name}")


rule train:
    input:
        ancient(rules.data.output),
    output:
        touch(RUN + ".done"),
    log:
        RUN + ".log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: given(backbone=w.backbone, seed=w.seed, **of_variant(w.variant)),
    shell:
        notebook(
            "train", "run {wildcards.variant}, {wildcards.backbone}, seed {wildcards.seed}", of_wildcards(RUN) + ".ipynb"
        )


# The chapter: the notebook run again on a finished run only reads and shows it.
rule train_chapter:
    input:
        ancient(BEST + ".done"),
    output:
        NOTEBOOKS + "/train.ipynb",
    log:
        ROOT + "/train.log",
    params:
        given(backbone=BACKBONES[0], seed=0, **of_variant(SHOWN)),
    shell:
        notebook("train", "the chapter on training")


rule evaluate:
    input:
        flags(RUNS),
    output:
        NOTEBOOKS + "/evaluate.ipynb",
    log:
        ROOT + "/evaluate.log",
    threads: workflow.cores or 1
    params:
        given(results=RESULTS),
    shell:
        notebook("evaluate", "the evaluation")


# One share of a city's photographs, for as many machines as there are parts; the map joins them.
rule predict_part:
    input:
        ancient(BEST + ".done"),
    output:
        touch(ROOT + "/map/part-{part}-of-{parts}.done"),
    log:
        ROOT + "/map-{part}-of-{parts}.log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: shlex.join([PRESET, DATA["data"], DATA.get("tasks", ""), BEST, f"{ROOT}/map", f"{w.part}/{w.parts}"]),
    shell:
        f"OMP_NUM_THREADS={{threads}} {shlex.quote(sys.executable)} -c 'import sys; "
        "from mtclim import load_config, prepare; from mtclim.mapping import predict; preset, data, tasks, run, out, part = sys.argv[1:]; "
        "table = prepare.load_table(load_config(preset, data=data, tasks=tasks), False).path; "
        'predict.main([run, str(table), out + "/predictions.parquet", "--part", part])\' {params} '
        + told("part {wildcards.part} of the prediction")


rule map:
    input:
        BEST + ".done",
        ancient(rules.evaluate.output),
        expand(rules.predict_part.output, part=range(PARTS), parts=PARTS) if PARTS > 1 else [],
    output:
        NOTEBOOKS + "/map.ipynb",
    log:
        ROOT + "/map.log",
    threads: workflow.cores or 1
    params:
        given(runs=BEST, out=f"{ROOT}/map", results=RESULTS),
    shell:
        notebook("map", "the map")


rule book:
    input:
        rules.study.input,
    shell:
        "make --no-print-directory book RESULTS={RESULTS}"


rule grid_run:
    output:
        touch(GRID_RUN + ".done"),
    log:
        GRID_RUN + ".log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: given(
            seed=w.seed,
            out=GRID_RUN.format(**w),
            overrides=f"{{interdependency: {w.level}, ambiguity: {w.ambiguity}}}",
            **of_variant(w.variant),
        ),
    shell:
        notebook("train", "run " + of_wildcards(GRID_RUN), of_wildcards(GRID_RUN) + ".ipynb")


GRID_FILES = [f"{config.get('results') or 'results'}/{name}" for name in ("grid.csv", "grid_runs.csv", "grid.txt", "grid.svg")]


# grid_runs.csv is no declared output, since Snakemake removes outputs before it makes them: runs are added to it.
rule grid:
    input:
        flags(GRID_RUNS),
    output:
        GRID_FILES[0],
        GRID_FILES[2:],
    run:
        write_grid(*GRID_FILES)


# The same from the runs that are there, however few: snakemake --cores 1 grid_so_far
rule grid_so_far:
    run:
        write_grid(*GRID_FILES)
