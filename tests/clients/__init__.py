"""Other people's datamodules, wrapped and not."""
