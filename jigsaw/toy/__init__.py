"""The tiny model and the rendered scenes of the quickstart and the tests."""
