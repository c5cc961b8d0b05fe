"""Plain references, doubles and small data that tests share."""
