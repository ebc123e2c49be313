"""The evaluation card, `README.md`: rendered from the report alone, with audit and receipt beside it."""

from .evaluation_card import card_of, check_readme, is_rendered, render_card, write_card

__all__ = ["card_of", "check_readme", "is_rendered", "render_card", "write_card"]
