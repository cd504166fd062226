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

import json
import shlex
import sys

from mtclim.config import load_config, project_root, run_folder
from mtclim.runs import is_complete


def listed(name, default):
    """A comma-separated setting of the command line as a list."""
    given = str(config.get(name) or "")
    return given.split(",") if given else list(default)


GIVEN = {name: config[name] for name in ("config", "data", "tasks") if config.get(name)}
SETTINGS = load_config(GIVEN.get("config", ""), data=GIVEN.get("data"), tasks=GIVEN.get("tasks"))
GIVEN |= {"data": SETTINGS.data}  # said in each notebook, so that its page can tell synthetic from real
BACKBONES = listed("backbones", [SETTINGS.backbone])
VARIANTS = listed("variants", sum((SETTINGS.study.get(kind, []) for kind in ("variants", "controls", "rivals")), []))
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

GRID = load_config("study").study["grid"]
GRID_SEEDS = range(int(config.get("grid_realisations") or GRID["realisations"]))
GRID_RUN = "runs/grid/interdependency-{interdependency}/ambiguity-{ambiguity}/{variant}/seed-{seed}"
GRID_RUNS = [
    GRID_RUN.format(interdependency=interdependency, ambiguity=ambiguity, variant=variant, seed=seed)
    for interdependency, ambiguity in GRID["cities"]
    for variant in GRID["variants"]
    for seed in GRID_SEEDS
]
GRID_RESULTS = config.get("results") or "results"


def made(run):
    """What says that a run is finished: the marker in its folder, or the flag that the job which trains it will set.

    Snakemake removes the outputs of a job before it starts it, and makes their folders: a marker cannot be an output.
    """
    return f"{run}/COMPLETE" if is_complete(run) else f"{run}.done"


def arguments(**parameters):
    """papermill's arguments for the parameters that are set.

    Rules call it in a function: Snakemake would take braces in a path, which a string holds, for wildcards.
    """
    pairs = [shlex.join(["-p", name, str(value)]) for name, value in (GIVEN | parameters).items() if value != ""]
    return " ".join(pairs)


def of_wildcards(pattern):
    """A path pattern of an output for use in a command."""
    return pattern.replace("{", "{wildcards.")


def python(module, what, to="/dev/null"):
    """The command for a module: quiet on the terminal, all in the log; a failure says what failed and where to read.

    Thread pools and glibc take their settings from the environment when they are first used, so these are set before
    Python starts. glibc keeps freed memory for the next training step, which else asks the system anew for every page.
    """
    threads = " ".join(f"{library}_NUM_THREADS={{threads}}" for library in ("OMP", "MKL", "OPENBLAS"))
    memory = "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647"
    failed = f"{{{{ tail -n 15 {{log}} >&2; echo 'FAILED: {what}; its log: {{log}}' >&2; exit 1; }}}}"
    return f"{threads} {memory} {shlex.quote(sys.executable)} -m {module} {{params}} > {to} 2> {{log}} || {failed}"


def notebook(name, what, executed="{output}"):
    """The command for one notebook."""
    return python(f"papermill --no-progress-bar --log-output notebooks/{name}.ipynb {executed}", what)


rule study:
    input:
        expand(NOTEBOOKS + "/{name}.ipynb", name=["explore", "balance", "train", "evaluate", "map"]),


# The table is read, the city drawn and the images decoded once, before several runs ask for them at the same time. The
# output says what was read; the path of the table is its first line.
rule data:
    output:
        ROOT + "/data.txt",
    log:
        ROOT + "/data.log",
    threads: workflow.cores or 1
    params:
        lambda w: " ".join(shlex.join([f"--{name}", value]) for name, value in GIVEN.items()),
    shell:
        python("mtclim prepare", "the data", to="{output}")


rule look:
    input:
        ancient(rules.data.output),
    output:
        NOTEBOOKS + "/{name,explore|balance}.ipynb",
    log:
        ROOT + "/{name}.log",
    params:
        lambda w: arguments(),
    shell:
        notebook("{wildcards.name}", "{wildcards.name}")


rule train:
    input:
        ancient(rules.data.output),
    output:
        temp(touch(RUN + ".done")),
    log:
        RUN + ".log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: arguments(backbone=w.backbone, seed=w.seed, variant=w.variant),
    shell:
        notebook(
            "train", "run {wildcards.variant}, {wildcards.backbone}, seed {wildcards.seed}", of_wildcards(RUN) + ".ipynb"
        )


# The chapter: the notebook run again on a finished run only reads and shows it.
rule train_chapter:
    input:
        ancient(made(BEST)),
    output:
        NOTEBOOKS + "/train.ipynb",
    log:
        ROOT + "/train.log",
    params:
        lambda w: arguments(backbone=BACKBONES[0], seed=0, variant=SHOWN),
    shell:
        notebook("train", "the chapter on training")


rule evaluate:
    input:
        [made(run) for run in RUNS],
    output:
        NOTEBOOKS + "/evaluate.ipynb",
    log:
        ROOT + "/evaluate.log",
    threads: workflow.cores or 1
    params:
        lambda w: arguments(results=RESULTS),
    shell:
        notebook("evaluate", "the evaluation")


# One share of a city's photographs, for as many machines as there are parts; the map joins them. Both use the run that is
# best on validation.
rule predict_part:
    input:
        [ancient(made(run)) for run in RUNS],
        data=ancient(rules.data.output),
    output:
        touch(ROOT + "/map/part-{part}-of-{parts}.done"),
    log:
        ROOT + "/map-{part}-of-{parts}.log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: shlex.join(["--part", f"{w.part}/{w.parts}"]),
    shell:
        python(
            f'mtclim predict {ROOT} "$(head -n 1 {{input.data}})" {ROOT}/map/predictions.parquet',
            "part {wildcards.part} of the prediction",
        )


rule map:
    input:
        [made(run) for run in RUNS],
        ancient(rules.evaluate.output),
        expand(rules.predict_part.output, part=range(PARTS), parts=PARTS) if PARTS > 1 else [],
    output:
        NOTEBOOKS + "/map.ipynb",
    log:
        ROOT + "/map.log",
    threads: workflow.cores or 1
    params:
        lambda w: arguments(out=f"{ROOT}/map", results=RESULTS),
    shell:
        notebook("map", "the map")


rule book:
    input:
        rules.study.input,
    shell:
        "make --no-print-directory book RESULTS={RESULTS}"


rule grid_run:
    output:
        temp(touch(GRID_RUN + ".done")),
    log:
        GRID_RUN + ".log",
    threads: THREADS
    resources:
        runs_per_gpu=1,
    params:
        lambda w: arguments(
            config="study",
            data="city",
            variant=w.variant,
            seed=w.seed,
            out=GRID_RUN.format(**w),
            overrides=json.dumps(GRID["settings"] | {name: w[name] for name in ("interdependency", "ambiguity")}),
        ),
    shell:
        notebook("train", "run " + of_wildcards(GRID_RUN), of_wildcards(GRID_RUN) + ".ipynb")


# The scores of the runs are no declared output, since Snakemake removes outputs before it makes them: runs are added.
rule grid:
    input:
        [made(run) for run in GRID_RUNS],
    output:
        expand(GRID_RESULTS + "/grid.{kind}", kind=["csv", "svg"]),
    params:
        shlex.join(["runs/grid", GRID_RESULTS]),
    log:
        "runs/grid/grid.log",
    shell:
        python("mtclim grid", "the tables of the grid")


# The same from the runs that are there, however few: snakemake --cores 1 grid_so_far
rule grid_so_far:
    params:
        rules.grid.params[0],
    log:
        "runs/grid/so-far.log",
    shell:
        python("mtclim grid", "the tables of the grid so far")
