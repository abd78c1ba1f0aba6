"""The sections of the page, one a file. Each says its place with `order`."""
