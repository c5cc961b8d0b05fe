"""The scenes of the examples: boxes around real handwritten digits, for tests."""

from examples.digit_scenes import POOL_WRITERS, PROPOSER_WRITERS, TEST_WRITERS, DigitScenes, digit_scenes

__all__ = ["POOL_WRITERS", "PROPOSER_WRITERS", "TEST_WRITERS", "DigitScenes", "digit_scenes"]
