"""Where networks come from: torchvision, timm, Hugging Face, and networks cut for class activation maps."""
