"""Tests in the rooms of the package: `tests/<room>/test_<module>.py` tests `hf_unlearn/<room>/<module>.py`.

Importing this sets what every process of the tests needs, before the libraries read it.
"""

import multiprocessing
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Of every process that a test starts: threads that wait for each other make a busy machine ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import torch

multiprocessing.set_start_method("forkserver", force=True)  # a process with threads that forks can hang: workers too
# A shell that runs the tests in the background has them ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
datasets.disable_progress_bars()
