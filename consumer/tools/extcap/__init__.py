"""zbuf extcap: running captures as interfaces of Wireshark and tshark."""
