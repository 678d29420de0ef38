"""Where images and labels come from, a source a file, named like its configuration in conf/data.

A source is a function that gives a `Catalogue`. It reads names and labels, no pixels.
"""
