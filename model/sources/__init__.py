"""Where checkpoints come from: files, directories and Hugging Face's hub."""
