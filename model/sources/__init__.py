"""Where checkpoints come from: files, directories and the Hugging Face Hub."""
