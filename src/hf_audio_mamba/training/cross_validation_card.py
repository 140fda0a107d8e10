"""The card of a cross-validation: what its models reached, fold by fold. Each model has a card of its own."""

import json
import math
from collections.abc import Mapping
from typing import Any


def render(name: str, results: Mapping[str, Any]) -> str:
    """Write the card.

    Args:
        name: Heading.
        results: What `all_results.json` of the whole cross-validation holds.

    Returns:
        Markdown.
    """
    folds = results["folds"]
    first = next(iter(folds.values()))
    lines = [
        f"# {name}",
        "",
        f"Cross-validation of a {results['model_type']} model on {results['dataset']}: {len(folds)} models, each "
        "tested on one fold and trained on others. Their cards are in the sub-folders.",
        "",
        f"- **Parameters:** {results['num_parameters']:,}",
        f"- **Classes or targets:** {', '.join(results['label_names'])}",
        f"- **Data licence:** {first['data_license']}",
        f"- **Seed:** {results['seed']}",
        f"- **Training time:** {results['train_seconds'] / 60:.0f} min for all folds",
        "",
        "## Test scores",
        "",
        *_scores(results),
        "",
        "## Run it again",
        "",
        "```bash",
        results["command"] or "(started from Python)",
        "```",
        "",
        "| argument | value |",
        "|---|---|",
        *(f"| `{key}` | {_value(value)} |" for key, value in sorted(first["arguments"].items()) if key != "fold"),
        "",
        "Versions: " + ", ".join(f"{package} {version}" for package, version in results["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _scores(results: Mapping[str, Any]) -> list[str]:
    """One row a fold, then mean and standard deviation; floors beside each metric that they have."""
    folds = results["folds"]
    means, deviations = results["metrics"]["test"], results["deviations"]["test"]
    floors = {name: splits["test"] for name, splits in results.get("floor", {}).items()}
    columns = [(metric, None) for metric in means]
    columns += [(metric, floor) for floor, values in floors.items() for metric in means if metric in values]
    titles = [metric if floor is None else f"{metric}, {floor}" for metric, floor in columns]
    rows = [["fold", "test clips", *(title.replace("_", " ") for title in titles)]]
    for name, fold in folds.items():
        own = [
            (fold["metrics"] if floor is None else fold["floor"][floor])["test"][metric] for metric, floor in columns
        ]
        rows.append([name, str(fold["clips"]["test"]), *map(_number, own)])
    average = [means[metric] if floor is None else floors[floor][metric] for metric, floor in columns]
    rows.append(["**mean**", "", *(f"**{_number(value)}**" for value in average)])
    spread = [_number(deviations[metric]) if floor is None else "" for metric, floor in columns]
    rows.append(["deviation", "", *spread])
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return [table[0], "|---" * len(rows[0]) + "|", *table[1:]]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not defined"


def _value(value: Any) -> str:
    return "`" + json.dumps(value).replace("|", "\\|") + "`"
