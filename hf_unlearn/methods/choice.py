"""The method for a request whose user names none."""

AUTO = "auto"


def choose_method(retain: bool, attribute: bool = False) -> tuple[str, str]:
    """Return the key of the method that suits what is at hand, and the reason in a few words.

    Args:
        retain: rows to keep are at hand.
        attribute: an attribute of all rows is to be forgotten, and no rows. Default False.
    """
    if attribute:
        return "feature_information", "an attribute of all rows is to be forgotten"
    if retain:
        return "surrogate_distillation", "rows to keep are at hand"
    return "jit", "no rows to keep are at hand"
