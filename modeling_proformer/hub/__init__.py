"""Models and tables on the Hugging Face Hub."""
