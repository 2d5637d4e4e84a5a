"""Heads that read text: classes are sentences, and an image goes to the sentence that is nearest."""
