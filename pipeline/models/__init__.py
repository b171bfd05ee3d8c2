"""Language models, masked and causal, behind one interface (`PromptedModel`)."""
