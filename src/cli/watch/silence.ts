/**
 * How a server that does not answer is spoken of.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import { format } from "../../DurationText.ts"

/** For how long an answer is waited for without a word. */
export const patience = Duration.seconds(5)

export const silent = (server: string): string => `${server} has not answered for ${format(patience)}`
