"""What the benchmarks share: command line, loop over the sets, tables and files.

A result is a flat dict with the keys set, seed, setting and contender, and then the
measures: four, two of quality (higher is better unless said) and two times in seconds,
or as many as the script has tables for.
"""

import argparse
import csv
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from joblib import Parallel, delayed, parallel_config
from scipy.stats import bootstrap

__all__ = ["by_set", "differences", "markdown", "means", "parse_arguments", "run"]


def pivot(results, setting, measure):
    """Average over seeds.

    Returns
    -------
    sets, contenders : list of str
        In the order of the results.
    table : ndarray of shape (n_sets, n_contenders)
    """
    cells = defaultdict(list)
    for row in results:
        if row["setting"] == setting:
            cells[row["set"], row["contender"]].append(row[measure])
    sets = list(dict.fromkeys(name for name, _ in cells))
    contenders = list(dict.fromkeys(name for _, name in cells))
    table = [[np.mean(cells[s, c]) for c in contenders] for s in sets]
    return sets, contenders, np.array(table)


def wins(table):
    """Count for every column the rows in which it is highest; ties are shared."""
    best = table == np.fmax.reduce(table, axis=1, keepdims=True)
    return (best / np.maximum(best.sum(axis=1, keepdims=True), 1)).sum(axis=0)


def means(results, setting, measures):
    """Write a table of means over the sets: a row a contender, a column a measure.

    Parameters
    ----------
    results : list of dict
    setting : str
        The results to take.
    measures : dict of str to str
        Keys of the measures and the words for them.

    Returns
    -------
    str
    """
    sets, contenders, _ = pivot(results, setting, next(iter(measures)))
    rows = [[f"{setting}: means over {len(sets)} sets", *measures.values()]]
    rows.append(["---"] * (1 + len(measures)))
    columns = [pivot(results, setting, key)[2].mean(axis=0) for key in measures]
    for name, *values in zip(contenders, *columns, strict=True):
        rows.append([name, *(f"{value:.3f}" for value in values)])
    return _lines(rows)


def by_set(results, setting, key, word):
    """Write a table of one measure: a row a set, the number of sets won, means."""
    sets, contenders, table = pivot(results, setting, key)
    rows = [[f"{setting}: {word}", *contenders], ["---"] * (1 + len(contenders))]
    for name, values in zip(sets, table, strict=True):
        rows.append([name, *(f"{value:.3f}" for value in values)])
    rows.append(["won", *(f"{n:.3g}" for n in wins(table))])
    rows.append(["**mean**", *(f"**{value:.3f}**" for value in table.mean(axis=0))])
    return _lines(rows)


def markdown(results, setting, measures, count_wins):
    """Write a table: a row a set, the number of sets won, seconds, means.

    Parameters
    ----------
    results : list of dict
    setting : str
        The results to take.
    measures : dict of str to str
        Keys of the four measures and the words for them.
    count_wins : bool
        Whether to have a row with the number of sets won.

    Returns
    -------
    str
    """
    sets, contenders, _ = pivot(results, setting, next(iter(measures)))
    tables = np.array([pivot(results, setting, key)[2] for key in measures])
    words = list(measures.values())

    def row(name, pairs, form="{:.3f} / {:.3f}"):
        return [name, *(form.format(a, b) for a, b in zip(*pairs, strict=True))]

    rows = [[f"{setting}: {words[0]} / {words[1]}", *contenders]]
    rows.append(["---"] * (1 + len(contenders)))
    rows += [row(name, tables[:2, i]) for i, name in enumerate(sets)]
    if count_wins:
        rows.append(row("won", [wins(t) for t in tables[:2]], "{:.3g} / {:.3g}"))
    times = tables[2:].mean(axis=1)
    rows.append(row(f"seconds: {words[2]} / {words[3]}", times, "{:.2f} / {:.2f}"))
    rows.append(row("**mean**", tables[:2].mean(axis=1), "**{:.3f} / {:.3f}**"))
    return _lines(rows)


def differences(results, setting, measures, ours, lower_is_better=False):
    """Write how much better one contender is than each other one.

    Parameters
    ----------
    results : list of dict
    setting : str
        The results to take.
    measures : dict of str to str
        The first two are compared.
    ours : str
        The contender to compare with all others.
    lower_is_better : bool
        Whether the measures are errors.

    Returns
    -------
    str
        A table of mean differences over the sets, with 95 % intervals of a bootstrap
        (BCa) that draws sets, and of the numbers of sets in which `ours` is better and
        worse. Empty if `ours` has nothing to be compared with.
    """
    keys = list(measures)[:2]
    rows = [[f"{setting}: {ours} minus", *(measures[key] for key in keys)], ["---"] * 3]
    _, contenders, _ = pivot(results, setting, keys[0])
    others = [name for name in contenders if name != ours]
    if ours not in contenders or not others:
        return ""
    for other in others:
        cells = [other]
        for key in keys:
            table = pivot(results, setting, key)[2]
            d = table[:, contenders.index(ours)] - table[:, contenders.index(other)]
            low, high = np.nan, np.nan
            if len(d) > 1 and np.ptp(d) > 0:
                low, high = bootstrap([d], np.mean, rng=0).confidence_interval
            gain = -d if lower_is_better else d
            better, worse = (gain > 0).sum(), (gain < 0).sum()
            interval = f"{low:+.3f} to {high:+.3f}"
            cells.append(f"{d.mean():+.3f} ({interval}), {better} : {worse}")
        rows.append(cells)
    return _lines(rows)


def _lines(rows):
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def parse_arguments(doc, contenders, suffix, groups=None, needs=None, **options):
    """Read the command line.

    Parameters
    ----------
    doc : str
        The script's docstring; its first line becomes the description.
    contenders : dict
        Their names are the choices of ``--contenders``.
    suffix : str
        How the names of data files end.
    groups : dict of str to list of str, optional
        Names for several contenders. The first group is the default; without groups
        all contenders are.
    needs : dict of str to str, optional
        Packages without which a contender is left out.
    **options : dict
        Further options and their defaults: integers, or lists of them.

    Returns
    -------
    argparse.Namespace
        With `files`, a dict from the names of the sets to their paths.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, metavar="DATA_FOLDER", help=f"holds the {suffix} files")
    for name, default in {**options, "seeds": [0, 1, 2]}.items():
        nargs, shown = None, default
        if isinstance(default, list):
            nargs, shown = "+", " ".join(map(str, default))
        about = f"default: {shown}"
        add(f"--{name}", type=int, nargs=nargs, default=default, help=about)
    add("--jobs", type=int, default=1, help="sets side by side, on a thread each")
    add("--sets", nargs="+", help="names of files; a number before _ may be left out")
    groups = groups or {"all": list(contenders)}
    names = [*groups, *contenders]
    add(
        "--contenders",
        nargs="+",
        metavar="NAME",
        choices=names,
        default=names[:1],
        help=" | ".join(names),
    )
    add("--out", type=Path, nargs="+", default=[], help="a .md and / or a .csv file")
    args = parser.parse_args()
    chosen = [groups.get(name, [name]) for name in args.contenders]
    args.contenders = list(dict.fromkeys(name for group in chosen for name in group))
    for name, package in (needs or {}).items():
        if name in args.contenders and find_spec(package) is None:
            print(f"{name} is left out: {package} is not installed", file=sys.stderr)
            args.contenders.remove(name)
    if not args.contenders:
        parser.error("no contender is left")
    paths = sorted(args.folder.glob(f"*{suffix}"))
    args.files = {path.name.removesuffix(suffix): path for path in paths}
    if args.sets is not None:
        aliases = {name.lstrip("0123456789").lstrip("_"): name for name in args.files}
        wanted = {aliases.get(name, name) for name in args.sets}
        if unknown := wanted - set(args.files):
            parser.error(f"not in {args.folder}: {', '.join(sorted(unknown))}")
        args.files = {name: args.files[name] for name in args.files if name in wanted}
    if not args.files:
        parser.error(f"no {suffix} files in {args.folder}")
    return args


def write(path, results, tables):
    """Write every result to a .csv, the tables to any other file."""
    if path.suffix != ".csv":
        path.write_text(tables + "\n")
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)


def measure_set(run_set, name, path, args, measures):
    """Measure all of a set; return the results and the seconds it took."""
    start = perf_counter()
    results = []
    for what, measure in run_set(path, args):
        try:
            values = measure()
        except Exception as error:  # the other results are worth keeping
            print(f"{name} {what}: {error!r}", file=sys.stderr)
            values = [np.nan] * len(measures)
        values = dict(zip(measures, values, strict=True))
        results.append({"set": name, **what, **values})
    return results, perf_counter() - start


def run(args, measures, run_set, *, ours=None, count_wins=True, tabulate=None):
    """Run set after set, print the tables at the end: one for each setting.

    ``--jobs`` sets run side by side, in processes of one thread each. The files are
    rewritten after every set, so that an interrupted run leaves what it had. A
    measurement that raises is reported and counts as nan.

    Parameters
    ----------
    args : argparse.Namespace
        What `parse_arguments` gave.
    measures : dict of str to str
        Keys of the measures and the words for them: four, without `tabulate`.
    run_set : callable
        From a path and `args` to an iterable of pairs: the dict that says what is
        measured, without the set, and a function that returns the measures.
    ours : str, optional
        The contender to compare with all others, if it takes part.
    count_wins : bool
        Whether to count the sets in which a contender has the highest measure.
    tabulate : callable, optional
        From the results and a setting to other tables than those of `markdown` and
        `differences`.
    """
    results = []
    plan = [
        lambda results, setting: markdown(results, setting, measures, count_wins),
        lambda results, setting: differences(results, setting, measures, ours),
    ]
    plan = plan if tabulate is None else [tabulate]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        done = Parallel(n_jobs=args.jobs, return_as="generator")(
            delayed(measure_set)(run_set, name, path, args, measures)
            for name, path in args.files.items()
        )
    for i, (name, (rows, seconds)) in enumerate(zip(args.files, done, strict=True), 1):
        results += rows
        settings = list(dict.fromkeys(row["setting"] for row in results))
        tables = [write_table(results, s) for write_table in plan for s in settings]
        tables = "\n\n".join(filter(None, tables))
        for out in args.out:
            write(out, results, tables)
        print(f"{i}/{len(args.files)} {name}: {seconds:.1f} s", file=sys.stderr)
    print(tables)
