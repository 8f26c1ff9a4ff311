import { createServer } from "node:net"

/**
 * A free port on the loopback address, below the range from which the system takes ports for outgoing connections:
 * a server that is stopped for a while must get its port again.
 */
export const freePort = async (): Promise<number> => {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer()
      server.once("error", () => resolve(false))
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)))
    })
    if (free) return port
  }
}
