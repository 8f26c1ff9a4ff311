/**
 * The command brings the optional packages along: where it runs without being installed, nothing can be installed beside it.
 *
 * @internal
 */
import type { OptionalPackage } from "../../kubernetes/OptionalPackages.ts"

export const load = (name: OptionalPackage): Promise<unknown> => {
  switch (name) {
    case "https-proxy-agent":
      return import("https-proxy-agent")
    case "socks-proxy-agent":
      return import("socks-proxy-agent")
    case "openid-client":
      return import("openid-client")
  }
}
