"""Draw what `docs/architecture.md` shows of the code: the rooms, what each holds, and which room imports which.

    python docs/draw_architecture.py

A test draws it again and compares.
"""

from __future__ import annotations

import ast
from pathlib import Path

import grimp

PACKAGE = "hf_unlearn"
PAGE = Path(__file__).with_name("architecture.md")
START, END = "<!-- drawn by docs/draw_architecture.py -->", "<!-- end of what is drawn -->"


def imported_rooms() -> dict[str, set[str]]:
    """Each room, and the rooms that it imports from: functions and annotations count too."""
    graph = grimp.build_graph(PACKAGE)
    rooms: dict[str, set[str]] = {room.split(".")[1]: set() for room in graph.find_children(PACKAGE)}
    for module in graph.modules - {PACKAGE}:
        for imported in graph.find_modules_directly_imported_by(module) - {PACKAGE}:
            rooms[module.split(".")[1]].add(imported.split(".")[1])
    return {room: imports - {room} for room, imports in rooms.items()}


def from_top_to_bottom(rooms: dict[str, set[str]]) -> list[str]:
    """The rooms in such an order that each imports only from those after it.

    Raises:
        ValueError: the rooms form a circle.
    """
    order: list[str] = []
    while len(order) < len(rooms):
        free = sorted(r for r in rooms if r not in order and not any(r in rooms[o] for o in rooms if o not in order))
        if not free:
            raise ValueError(f"these rooms import each other in a circle: {sorted({*rooms} - {*order})}")
        order += free
    return order


def direct(rooms: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way stands for (the transitive reduction)."""
    below: dict[str, set[str]] = {}
    for room in reversed(from_top_to_bottom(rooms)):
        below[room] = rooms[room].union(*(below[r] for r in rooms[room]))
    return [
        (room, target)
        for room in from_top_to_bottom(rooms)
        for target in sorted(rooms[room])
        if not any(target in below[other] for other in rooms[room] - {target})
    ]


def purpose(room: str) -> str:
    """The first line of the docstring of a room."""
    place = Path(__file__).parents[1] / PACKAGE / room
    source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0].replace("|", "\\|")


def drawing() -> str:
    """The picture in mermaid, and the table below it."""
    rooms = imported_rooms()
    order = from_top_to_bottom(rooms)
    arrows = "\n".join(f"    {room} --> {target}" for room, target in direct(rooms))
    rows = "\n".join(
        f"| `{room}` | {purpose(room)} | {', '.join(r for r in order if r in rooms[room]) or '–'} |" for room in order
    )
    return f"```mermaid\nflowchart TD\n{arrows}\n```\n\n| room | what it holds | imports from |\n|---|---|---|\n{rows}"


def drawn(page: str) -> str:
    """The page with its drawing made anew."""
    before, _, after = page.partition(START)
    return f"{before}{START}\n\n{drawing()}\n\n{END}{after.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
