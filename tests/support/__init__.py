"""What the tests share: tiny models, data sets, runs, a Hub on this machine, processes. Nothing is downloaded."""
