"""A crew of peers on one expert: does it learn as well as it should, and what does it have to send?"""
