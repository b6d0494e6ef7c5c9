"""Decentralized experts against one model, at matched data and training compute: PROTOCOL.md says what is
measured and how.
"""
