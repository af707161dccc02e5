"""From a folder of photos to boxes and masks for annotators: `label_files`, SAM, and a Label Studio backend."""
