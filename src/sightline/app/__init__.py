"""The web app: one photo or several, methods side by side, boxes, downloads. The state is apart from the widgets."""

import os

# Before Gradio is imported anywhere: nothing is reported to its makers, and no version is asked for.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
