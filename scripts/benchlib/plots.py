"""Pictures of what was tuned, by matplotlib (extra: tune), without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_NUMBERS = 24  # CPUs in a heat map whose cells have their figures in them


class NoPlotsError(RuntimeError):
    """matplotlib is not installed; the text says how to get it."""


def check() -> None:
    """NoPlotsError now, and not after minutes of measuring."""
    pyplot()


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as missing:
        raise NoPlotsError(f"no picture can be drawn: {missing}; pip install 'fastcomm[tune]'") from missing
    matplotlib.use("agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def heat_map(path: Path, title: str, cpus: Sequence[int], one_way_ns: Sequence[Sequence[float]]) -> None:
    """From the CPU of the row to that of the column."""
    plt = pyplot()
    inches = max(4.0, 0.45 * len(cpus))
    figure, axes = plt.subplots(figsize=(inches + 1.5, inches), layout="constrained")
    cells = [[value or float("nan") for value in row] for row in one_way_ns]  # the diagonal stays blank
    image = axes.imshow(cells, cmap="Oranges")
    figure.colorbar(image, label="ns one way, median")
    labels = [str(cpu) for cpu in cpus]
    axes.set_xticks(range(len(cpus)), labels, fontsize=8)
    axes.set_yticks(range(len(cpus)), labels, fontsize=8)
    axes.set(title=title, xlabel="CPU", ylabel="CPU")
    if len(cpus) <= MOST_NUMBERS:
        for row, values in enumerate(one_way_ns):
            for column, value in enumerate(values):
                axes.text(column, row, f"{value:.0f}" if value else "", ha="center", va="center", fontsize=7)
    save(figure, path)


def settings_bars(path: Path, title: str, names: Sequence[str], figures: Sequence[dict[str, float]]) -> None:
    """Latencies of each setting, on a logarithmic scale, and beside them the CPU that it took."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.5 + 0.4 * len(names)), sharey=True, layout="constrained", width_ratios=(3, 1)
    )
    rows = range(len(names))
    for statistic, marker in (("p50", "o"), ("p95", "s"), ("p99", "^")):
        left.plot([one[statistic] for one in figures], rows, marker, label=statistic)
    left.set_xscale("log")
    left.set_yticks(rows, names, fontsize=8)
    left.invert_yaxis()
    left.grid(axis="x", which="both", alpha=0.3)
    left.set(xlabel="us from the intended send to the receipt")
    left.legend()
    right.barh(rows, [one["cpu"] for one in figures])
    right.set(xlabel="CPU time, % of one CPU")
    figure.suptitle(title)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot().close(figure)
