"""What is not searched for doctests."""

# Its import would install this package's names for all tests.
collect_ignore = ["keras_legacy_opt/auto.py"]
