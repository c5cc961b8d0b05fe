"""The same answers as independent packages."""
