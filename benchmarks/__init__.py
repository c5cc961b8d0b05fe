"""Speed, memory and quality, side by side with floors and peers; never part of the tests.

Run from the root of the repository, for example ``python -m benchmarks.cifar10 --quick``. CIFAR-10 comes from the
folder in LIGHTNING_CORESET_DATA, else from torchvision's download. ``RESULTS.md`` holds what was measured.
"""
