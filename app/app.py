"""The Space: the page of `hf-unlearn app`, which reads public models and data sets of the Hub."""

from hf_unlearn.cli.app.page import for_others, launch

if __name__ == "__main__":
    launch(for_others())
