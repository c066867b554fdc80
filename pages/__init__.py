"""The documentation: pages that are made from the code, and the site (`make docs`)."""
