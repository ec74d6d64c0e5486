import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Scanner;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.zip.GZIPInputStream;

/** java.net.http.HttpClient as it comes: it offers h2c in every first request of a connection. See common.py. */
public class Client {
    static byte[] pattern(int size) {
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) body[i] = (byte) (i % 251);
        return body;
    }

    /** A body of unknown length goes out in chunks. */
    static BodyPublisher publisher(int size, List<String> flags) {
        if (size < 0) return BodyPublishers.noBody();
        if (flags.contains("chunked"))
            return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(pattern(size)));
        return BodyPublishers.ofByteArray(pattern(size));
    }

    static String result(HttpResponse<byte[]> response) throws Exception {
        byte[] body = response.body();
        if (response.headers().firstValue("Content-Encoding").orElse("").equals("gzip"))
            body = new GZIPInputStream(new ByteArrayInputStream(body)).readAllBytes();
        HexFormat hex = HexFormat.of();
        return response.statusCode() + " " + body.length + " "
            + hex.formatHex(MessageDigest.getInstance("SHA-256").digest(body)) + " "
            + response.headers().firstValue("Content-Length").orElse("-") + " "
            + hex.formatHex(Arrays.copyOf(body, Math.min(body.length, 200)));
    }

    static String error(Throwable error) {
        Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
        return "error " + HexFormat.of().formatHex(cause.toString().getBytes());
    }

    public static void main(String[] arguments) throws Exception {
        HttpClient still = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NEVER).build();
        HttpClient following = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NORMAL).build();
        Scanner script = new Scanner(System.in);
        while (script.hasNextLine()) {
            String[] column = script.nextLine().split("\t", -1);
            List<String> flags = Arrays.asList(column[3].split(","));
            HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(arguments[0] + column[1]))
                .method(column[0], publisher(Integer.parseInt(column[2]), flags))
                .expectContinue(flags.contains("expect"))
                .timeout(Duration.ofSeconds(30));
            if (!column[5].isEmpty()) builder.header(column[5].split(": ")[0], column[5].split(": ")[1]);
            if (flags.contains("close")) builder.header("Connection", "close");
            HttpClient client = flags.contains("follow") ? following : still;
            List<CompletableFuture<HttpResponse<byte[]>>> answers = new ArrayList<>();
            for (int i = 0; i < Integer.parseInt(column[4]); i++)
                answers.add(client.sendAsync(builder.build(), BodyHandlers.ofByteArray()));
            for (CompletableFuture<HttpResponse<byte[]>> answer : answers) {
                String line;
                try {
                    line = result(answer.get());
                } catch (ExecutionException failed) {
                    line = error(failed);
                }
                System.out.println(line);
            }
        }
        System.exit(0); // the client's threads would live on for a while
    }
}
