"""Held-out jigsaws from prepared rows: of images, videos and scenes, and the same greyed out."""

from jigsaw.evaluation.puzzles import puzzles

image = puzzles("image")
video = puzzles("video")
depth = puzzles("depth")
image_grey = puzzles("image", grey=True)
video_grey = puzzles("video", grey=True)
depth_grey = puzzles("depth", grey=True)
