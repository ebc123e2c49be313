"""A model and a data set in folders, as a user has them, and the command lines and recipes that unlearn from them."""

from tests.support.data import image_data, image_processor
from tests.support.models import trained


def save_model_and_data(root, rows=96):
    """Save a trained classifier as `original` and its data set as `data`, both below `root`; returns `root`."""
    trained("vit").save_pretrained(root / "original")
    image_processor().save_pretrained(root / "original")
    (root / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(rows, seed).to_parquet(root / "data" / f"{split}.parquet")
    return root


def run_options(root, **keys):
    """Options of `hf-unlearn run` that forget class 1 of the data set below `root`; a key that is None is left out."""
    keys = {
        "model": root / "original",
        "dataset": root / "data",
        "forget_class": 1,
        "method": "jit",  # one method, whatever the default is
        "use_cpu": "true",
        "disable_tqdm": "true",
        **keys,
    }
    return [str(word) for key, value in keys.items() if value is not None for word in (f"--{key}", value)]


def write_recipe(folder, **keys):
    """Write a recipe of the given lines into `folder`, without those that are None; returns its path."""
    lines = {"model": "m", "dataset": "digits", "forget_class": "['3']", "output_dir": str(folder / "out"), **keys}
    path = folder / "recipe.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None))
    return str(path)
