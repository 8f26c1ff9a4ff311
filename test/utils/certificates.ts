/**
 * Certificates for tests, made anew in each run: no keys in the repository, none
 * that expires, and no openssl needed.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto"

export interface Certificate {
  readonly cert: string
  readonly key: string
}

export interface Authority extends Certificate {
  /** A server's certificate for these hosts and IP addresses. */
  readonly server: (hosts: ReadonlyArray<string>) => Certificate
  /** A client's certificate: `user` in its groups. */
  readonly client: (user: string, groups?: ReadonlyArray<string>) => Certificate
  /** An authority that this one has signed. */
  readonly authority: (name: string) => Authority
}

// --- DER ---

const der = (tag: number, ...parts: ReadonlyArray<Buffer>): Buffer => {
  const content = Buffer.concat(parts)
  const length = content.length < 0x80
    ? [content.length]
    : content.length < 0x100
    ? [0x81, content.length]
    : [0x82, content.length >> 8, content.length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}
const sequence = (...parts: ReadonlyArray<Buffer>) => der(0x30, ...parts)
const set = (...parts: ReadonlyArray<Buffer>) => der(0x31, ...parts)
const octets = (content: Buffer) => der(0x04, content)
const utf8 = (text: string) => der(0x0c, Buffer.from(text))
const yes = der(0x01, Buffer.from([0xff]))
const time = (text: string) => der(0x18, Buffer.from(text))
const oid = (text: string): Buffer => {
  const [first = 0, second = 0, ...rest] = text.split(".").map(Number)
  const bytes = [first * 40 + second]
  for (const arc of rest) {
    const digits = [arc & 0x7f]
    for (let left = arc >>> 7; left > 0; left >>>= 7) digits.unshift((left & 0x7f) | 0x80)
    bytes.push(...digits)
  }
  return der(0x06, Buffer.from(bytes))
}

const ecdsaWithSha256 = sequence(oid("1.2.840.10045.4.3.2"))
const attribute = (type: string, text: string) => set(sequence(oid(type), utf8(text)))
const extension = (type: string, value: Buffer, critical = false) =>
  sequence(oid(type), ...(critical ? [yes] : []), octets(value))

const address = (host: string): Buffer => {
  if (/^[\d.]+$/.test(host)) return der(0x87, Buffer.from(host.split(".").map(Number)))
  if (host === "::1") return der(0x87, Buffer.from([...Array.from({ length: 15 }, () => 0), 1]))
  return der(0x82, Buffer.from(host))
}

const pem = (content: Buffer) =>
  `-----BEGIN CERTIFICATE-----\n${
    content.toString("base64").replace(/(.{64})/g, "$1\n").trim()
  }\n-----END CERTIFICATE-----\n`

// --- X.509 ---

const issue = (options: {
  readonly issuer: Buffer
  readonly signer?: KeyObject
  readonly subject: Buffer
  readonly extensions: ReadonlyArray<Buffer>
}): Certificate & { readonly privateKey: KeyObject } => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" })
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ecdsaWithSha256,
    options.issuer,
    sequence(time("20200101000000Z"), time("21200101000000Z")),
    options.subject,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(...options.extensions))
  )
  const signature = sign("sha256", body, options.signer ?? privateKey)
  return {
    cert: pem(sequence(body, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature))),
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    privateKey
  }
}

const basicConstraints = (ca: boolean) => extension("2.5.29.19", ca ? sequence(yes) : sequence(), true)
const extendedKeyUsage = (usage: string) => extension("2.5.29.37", sequence(oid(usage)))

/** A certificate authority. */
export const makeAuthority = (
  name: string,
  parent?: { readonly issuer: Buffer; readonly signer: KeyObject }
): Authority => {
  const issuer = sequence(attribute("2.5.4.3", name))
  const authority = issue({ ...(parent ?? { issuer }), subject: issuer, extensions: [basicConstraints(true)] })
  const signer = authority.privateKey
  return {
    cert: authority.cert,
    key: authority.key,
    authority: (name) => makeAuthority(name, { issuer, signer }),
    server: (hosts) =>
      issue({
        issuer,
        signer,
        subject: sequence(attribute("2.5.4.3", "kube-apiserver")),
        extensions: [
          basicConstraints(false),
          extendedKeyUsage("1.3.6.1.5.5.7.3.1"),
          extension("2.5.29.17", sequence(...hosts.map(address)))
        ]
      }),
    client: (user, groups = []) =>
      issue({
        issuer,
        signer,
        subject: sequence(...groups.map((group) => attribute("2.5.4.10", group)), attribute("2.5.4.3", user)),
        extensions: [basicConstraints(false), extendedKeyUsage("1.3.6.1.5.5.7.3.2")]
      })
  }
}
