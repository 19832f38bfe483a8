/** Weights out of a safetensors file, and the few operations on vectors and matrices that the model is made of. */

import { QwenError } from "./errors.js";

const BYTES = { BF16: 2, F16: 2, F32: 4 };
const damaged = (why) => new QwenError("damaged-weights", `The weight file is damaged or incomplete: ${why}.`);

/**
 * What a safetensors file holds: 8 bytes that say how long the header is, the header in JSON, then the numbers.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Map<string, {dtype: string, shape: number[], start: number, end: number}>} by name, places in bytes
 * @throws {QwenError} damaged-weights; unsupported-model for a dtype that is none of bf16, f16 and f32
 */
export function readHeader(buffer) {
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < 8) throw damaged("it has no header");
  const dataStart = 8 + Number(new DataView(buffer).getBigUint64(0, true)), tensors = new Map();
  if (dataStart > buffer.byteLength) throw damaged("it ends within its header");
  let dataEnd = dataStart;
  try {
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, dataStart - 8)));
    for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
      const [start, end] = offsets.map((offset) => dataStart + offset), size = BYTES[dtype];
      if (!size) throw new QwenError("unsupported-model", `${name} has the dtype ${dtype}.`);
      if (!(start >= dataStart && end - start === shape.reduce((product, length) => product * length, size)))
        throw damaged(`${name} is not as large as its shape`);
      dataEnd = Math.max(dataEnd, end);
      tensors.set(name, { dtype, shape, start, end });
    }
  } catch (error) {
    throw error instanceof QwenError ? error : damaged("its header makes no sense");
  }
  if (dataEnd !== buffer.byteLength) throw damaged(`it has ${buffer.byteLength} bytes and not ${dataEnd}`);
  return tensors;
}

/** The numbers of a tensor of `readHeader` in float32, row by row. */
export function toFloat32(buffer, { dtype, start, end }) {
  const bytes = buffer.slice(start, end);
  if (dtype === "F32") return new Float32Array(bytes);
  const halves = new Uint16Array(bytes), bits = new Uint32Array(halves.length), values = new Float32Array(bits.buffer);
  // bfloat16 is the upper half of a float32; float16 has 3 bits less of the exponent, which counts from 15, not 127.
  const isBfloat16 = dtype === "BF16", widened = (half) => ((half & 0x8000) << 16) | ((half & 0x7fff) << 13);
  for (let i = 0; i < bits.length; i++) bits[i] = isBfloat16 ? halves[i] << 16 : widened(halves[i]);
  return isBfloat16 ? values : values.map((value) => value * 2 ** (127 - 15));
}

/**
 * output = weight · input, for a weight of (output.length, input.length). Eight rows at once, for the time goes here:
 * each number of the input is read once for all of them, and no sum waits for another.
 */
export function linear(weight, input, output) {
  const rows = output.length, size = input.length;
  let row = 0, r0 = 0;
  for (; row + 8 <= rows; row += 8, r0 += 8 * size) {
    const r1 = r0 + size, r2 = r1 + size, r3 = r2 + size, r4 = r3 + size;
    const r5 = r4 + size, r6 = r5 + size, r7 = r6 + size;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < size; i++) {
      const x = input[i];
      s0 += weight[r0 + i] * x; s1 += weight[r1 + i] * x; s2 += weight[r2 + i] * x; s3 += weight[r3 + i] * x;
      s4 += weight[r4 + i] * x; s5 += weight[r5 + i] * x; s6 += weight[r6 + i] * x; s7 += weight[r7 + i] * x;
    }
    output[row] = s0; output[row + 1] = s1; output[row + 2] = s2; output[row + 3] = s3;
    output[row + 4] = s4; output[row + 5] = s5; output[row + 6] = s6; output[row + 7] = s7;
  }
  for (; row < rows; row++, r0 += size) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += weight[r0 + i] * input[i];
    output[row] = sum;
  }
}

/** Divides by the root mean square, then scales every component; `input` holds one vector or several in a row. */
export function rmsNorm(weight, eps, input, output) {
  const size = weight.length;
  for (let start = 0; start < input.length; start += size) {
    let squares = 0;
    for (let i = start; i < start + size; i++) squares += input[i] * input[i];
    const scale = 1 / Math.sqrt(squares / size + eps);
    for (let i = 0; i < size; i++) output[start + i] = weight[i] * (input[start + i] * scale);
  }
}

/** Softmax in place, of values[start] to values[end - 1]. */
export function softmax(values, start, end) {
  let largest = -Infinity, sum = 0;
  for (let i = start; i < end; i++) if (values[i] > largest) largest = values[i];
  for (let i = start; i < end; i++) sum += values[i] = Math.exp(values[i] - largest);
  for (let i = start; i < end; i++) values[i] /= sum;
}

/** accumulator += factor * values */
export function addScaled(accumulator, values, factor) {
  for (let i = 0; i < accumulator.length; i++) accumulator[i] += factor * values[i];
}
