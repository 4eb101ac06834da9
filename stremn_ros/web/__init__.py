"""The live page: a picture with masks in a browser, and clicks that seed objects."""
