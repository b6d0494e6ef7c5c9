"""The other peers: p2pd, DHT, gossip, blob exchange. The only room that imports hivemind."""

from paris_p2p.swarm.light_hivemind import keep_hivemind_light

keep_hivemind_light()  # before any module of this room imports hivemind
