"""Speed, memory and quality, side by side with floors and peers; never part of the tests.

Run from the root of the repository: ``python -m benchmarks --quick`` to see that everything runs, ``--full`` for the
figures, ``--only growth`` for some of them, or one module alone, such as ``python -m benchmarks.cifar10 --quick``.
CIFAR-10 comes from the folder in LIGHTNING_CORESET_DATA, else from torchvision's download. Peers that are not installed
(``pip install lightning-coreset[cpu,submodlib,oracles]``) are named in the tables. ``RESULTS.md`` holds what was
measured.
"""
