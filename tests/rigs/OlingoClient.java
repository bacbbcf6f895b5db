import java.math.BigDecimal;
import java.net.URI;
import org.apache.olingo.client.api.ODataClient;
import org.apache.olingo.client.api.communication.request.retrieve.ODataEntitySetRequest;
import org.apache.olingo.client.api.communication.response.ODataRetrieveResponse;
import org.apache.olingo.client.api.domain.ClientEntity;
import org.apache.olingo.client.api.domain.ClientEntitySet;
import org.apache.olingo.client.api.uri.FilterFactory;
import org.apache.olingo.client.api.uri.QueryOption;
import org.apache.olingo.client.api.uri.URIBuilder;
import org.apache.olingo.client.core.ODataClientFactory;
import org.apache.olingo.client.core.http.BasicAuthHttpClientFactory;
import org.apache.olingo.commons.api.edm.Edm;
import org.apache.olingo.commons.api.edm.EdmEntitySet;
import org.apache.olingo.commons.api.edm.EdmEntityType;

/** Reads the cafe's service by its metadata, and prints what it reads: a line for each answer. */
public final class OlingoClient {
    public static void main(String[] words) {
        String url = words[0];
        ODataClient client = ODataClientFactory.getClient();
        client.getConfiguration().setHttpClientFactory(new BasicAuthHttpClientFactory("anyone", words[1]));
        Edm edm = client.getRetrieveRequestFactory().getMetadataRequest(url).execute().getBody();
        for (EdmEntitySet each : edm.getEntityContainer().getEntitySets()) {
            EdmEntityType type = each.getEntityType();
            System.out.print("set " + each.getName() + " key " + type.getKeyPredicateNames() + ":");
            for (String name : type.getPropertyNames()) {
                System.out.print(" " + name + "=" + type.getProperty(name).getType().getName());
            }
            System.out.println();
        }
        System.out.println("service " + client.getRetrieveRequestFactory().getServiceDocumentRequest(url).execute().getBody().getEntitySetNames().size());

        FilterFactory filters = client.getFilterFactory();
        URIBuilder orders = client.newURIBuilder(url).appendEntitySetSegment("cafe_orders");
        URI filtered = client.newURIBuilder(url).appendEntitySetSegment("cafe_orders")
            .filter(filters.and(filters.gt("price", new BigDecimal("2.4")), filters.match(filters.getArgFactory().contains(
                filters.getArgFactory().property("guest"), filters.getArgFactory().literal("o")))))
            .orderBy("order_id desc").select("order_id", "guest", "price").top(2).addQueryOption(QueryOption.COUNT, "true").build();
        ClientEntitySet some = request(client, filtered).execute().getBody();
        System.out.println("count " + some.getCount());
        some.getEntities().forEach(OlingoClient::print);

        URI next = orders.select("order_id", "paid_at", "day", "rating").build();
        int pages = 0;
        while (next != null) {
            ODataEntitySetRequest<ClientEntitySet> request = request(client, next);
            request.setPrefer(client.newPreferences().maxPageSize(2));
            ODataRetrieveResponse<ClientEntitySet> response = request.execute();
            ClientEntitySet page = response.getBody();
            pages++;
            page.getEntities().forEach(OlingoClient::print);
            next = page.getNext();
        }
        System.out.println("pages " + pages);

        URI one = client.newURIBuilder(url).appendEntitySetSegment("cafe_orders").appendKeySegment(2L).build();
        print(client.getRetrieveRequestFactory().getEntityRequest(one).execute().getBody());
        URI named = client.newURIBuilder(url).appendEntitySetSegment("guests").appendKeySegment("Ann").build();
        print(client.getRetrieveRequestFactory().getEntityRequest(named).execute().getBody());
        URI number = client.newURIBuilder(url).appendEntitySetSegment("cafe_orders").count().filter("cups eq 1").build();
        System.out.println("number " + client.getRetrieveRequestFactory().getValueRequest(number).execute().getBody());
        try {
            request(client, client.newURIBuilder(url).appendEntitySetSegment("cafe_orders").filter("nope eq 1").build()).execute();
        } catch (org.apache.olingo.client.api.communication.ODataClientErrorException error) {
            System.out.println("error " + error.getStatusLine().getStatusCode() + " " + error.getODataError().getCode() + " " + error.getODataError().getMessage());
        }
        URI shapes = client.newURIBuilder(url).appendEntitySetSegment("shapes").filter("order_id eq 1").build();
        request(client, shapes).execute().getBody().getEntities().forEach(OlingoClient::print);
        URI keyless = client.newURIBuilder(url).appendEntitySetSegment("cups").top(2).build();
        request(client, keyless).execute().getBody().getEntities().forEach(OlingoClient::print);
    }

    private static ODataEntitySetRequest<ClientEntitySet> request(ODataClient client, URI uri) {
        return client.getRetrieveRequestFactory().getEntitySetRequest(uri);
    }

    private static void print(ClientEntity entity) {
        StringBuilder line = new StringBuilder("row");
        entity.getProperties().forEach(each -> line.append(" ").append(each.getName()).append("=").append(each.getPrimitiveValue() == null ? "null" : each.getPrimitiveValue().toString()));
        System.out.println(line);
    }
}
