"""Film files and folders of images, read frame by frame and written; nothing here knows a network."""
