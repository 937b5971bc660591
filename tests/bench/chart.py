"""Draws what speed.py has measured, as docs/speed.svg; or prints it as the table of the README.

Usage: chart.py [JSON [SVG]]    or: chart.py --table [JSON]
`make chart` runs it with the Python that has matplotlib.
"""

import json
import os
import re
import sys

from workloads import HAND, OURS

HERE = os.path.dirname(os.path.abspath(__file__))
MEASURED = os.path.join(HERE, "../../target/bench/speed.json")
DRAWN = os.path.join(HERE, "../../docs/speed.svg")

# Colours for a light and a dark page, by the name of a CSS variable; the chart has its own ground, which changes with them. The
# first is what matplotlib draws with, and stands for the variable until the file is written.
COLOURS = {
    "ground": ("#fefefe", "#0d1117"), "ink": ("#1f2328", "#e6edf3"), "line": ("#d1d9e0", "#30363d"), "band": ("#dafbe1", "#12361f"),
    "plain": ("#bc4c00", "#f0883e"), "wrapped": ("#9a6700", "#d29922"), "library": ("#8250df", "#a371f7"), OURS: ("#0969da", "#58a6ff"),
}
MARKERS = {"plain": "s", "wrapped": "^", "library": "v", OURS: "o"}
LABELS = {
    "plain": "policy with current_setting()", "wrapped": "policy with (SELECT current_setting())",
    "library": "policy of django-rls-tenants", OURS: "tenancy",
}
WAYS = {("simple", 1): "1 client", ("prepared", 1): "prepared", ("simple", 8): "8 clients", ("prepared", 8): "8, prepared"}


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def by_workload(measured):
    """The rows of each workload, by protocol and clients."""
    workloads = {}
    for row in measured["rows"]:
        workloads.setdefault((row["workload"], row["table"]), {})[row["protocol"], row["clients"]] = row
    return workloads


def table(measured):
    others = [name for name in LABELS if name != OURS]
    head = ["work", "by hand", *(f"`{measured['columns'][name]}`" for name in others), "**tenancy**",
            *(f"tenancy, {way}" for key, way in WAYS.items() if key != ("simple", 1))]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for (workload, relation), rows in by_workload(measured).items():
        first = rows["simple", 1]
        cells = [f"{workload} ({relation})".replace("LIKE '%...%'", "`LIKE '%…%'`"), f"{first['milliseconds']:.2f} ms",
                 *(number(first["ratios"][name]) for name in others), f"**{number(first['ratios'][OURS])}**",
                 *(number(rows[way]["ratios"][OURS]) for way in WAYS if way != ("simple", 1))]
        print("| " + " | ".join(cells) + " |")


def draw(measured, path):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    light = {name: pair[0] for name, pair in COLOURS.items()}
    plt.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "tenancy", "font.family": "DejaVu Sans", "font.size": 10,
        "text.color": light["ink"], "axes.labelcolor": light["ink"], "xtick.color": light["ink"], "ytick.color": light["ink"],
        "axes.edgecolor": light["line"], "figure.facecolor": light["ground"], "axes.facecolor": light["ground"],
    })
    workloads = by_workload(measured)
    figure, axes = plt.subplots(figsize=(9.6, 1.9 + 0.34 * len(workloads)))
    places = range(len(workloads), 0, -1)
    axes.axvspan(1 / 1.05, 1.05, color=light["band"], zorder=0, linewidth=0)
    axes.axvline(1, color=light["ink"], linewidth=0.8, zorder=1)
    axes.hlines(places, 0.01, 1e6, color=light["line"], linewidth=0.6, zorder=0)
    for name in LABELS:
        for way in WAYS:
            main = way == ("simple", 1)
            # Ours four times: by either protocol, with one client and eight. The others would only hide one another.
            if main or name == OURS:
                values = [rows[way]["ratios"][name] for rows in workloads.values()]
                label = LABELS[name] if main else "tenancy, prepared or 8 clients" if way == ("prepared", 1) else None
                axes.scatter(values, places, s=46 if main else 16, marker=MARKERS[name], color=light[name], label=label,
                             zorder=3 if name == OURS else 2, linewidths=0, alpha=1 if main else 0.55)
    axes.set_xscale("log")
    axes.set_xlim(0.5, max(3, 1.6 * max(max(row["ratios"].values()) for row in measured["rows"])))
    axes.set_ylim(0.3, len(workloads) + 0.7)
    axes.set_yticks(list(places), [f"{workload} ({relation})" for workload, relation in workloads])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("time of a transaction : the same with a hand-written WHERE (logarithmic; less is faster; green: within 1.05)")
    quick = " — A QUICK RUN, NOT FOR FIGURES" if measured["quick"] else ""
    axes.set_title(f"PostgreSQL {measured['postgresql'].split()[0]}, {measured['flights']:,} flights, {measured['documents']:,} documents, "
                   f"{measured['processors']} processors{quick}", fontsize=10, loc="left", x=-0.34, pad=34)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.35, 1), ncols=5, frameon=False, fontsize=9, handletextpad=0.1, columnspacing=1.2)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": "The time of statements of one tenant"})

    with open(path) as file:
        svg = file.read()
    for name, (colour, _) in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    light_rules, dark_rules = ("".join(f"--{name}:{pair[at]};" for name, pair in COLOURS.items()) for at in (0, 1))
    style = f"<style>:root{{{light_rules}}}@media (prefers-color-scheme:dark){{:root{{{dark_rules}}}}}</style>"
    svg = re.sub(r"(<svg [^>]*>)", rf"\1\n {style}", svg, count=1)
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.M)
    with open(path, "w") as file:
        file.write(svg)


def main():
    arguments = sys.argv[1:]
    as_table = arguments[:1] == ["--table"]
    paths = arguments[1:] if as_table else arguments
    with open(paths[0] if paths else MEASURED) as file:
        measured = json.load(file)
    assert measured["columns"].keys() >= {HAND, *LABELS}
    if as_table:
        table(measured)
    else:
        draw(measured, paths[1] if len(paths) > 1 else DRAWN)


if __name__ == "__main__":
    main()
