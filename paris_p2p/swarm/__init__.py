"""The other peers: p2pd, DHT, gossip, blob exchange. The only room that imports hivemind."""
