"""Taking a fine-tuned model into use: predictions and exports."""
