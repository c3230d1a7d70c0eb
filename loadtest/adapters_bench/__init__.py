"""What many adapters cost on a real engine: cold starts, slots, a killed engine; over HTTP, as everything here."""
